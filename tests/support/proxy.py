"""A real nginx before servers under test, with the configuration of docs/deploy/."""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import REPOSITORY
from tests.support.live_server import answers, die_with_parent, wait_until
from tests.support.programs import free_port

TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")


@contextmanager
def nginx(folder: Path, ports: Sequence[int], prefix: str = "") -> Iterator[str]:
    """The address of an nginx that passes requests on to servers on these ports, below `prefix` if given."""
    program = installed("nginx", "nginx-light")
    folder.mkdir()
    port = free_port()
    paths = "".join(f"{name}_temp_path {folder / name};" for name in TEMPORARY)
    (folder / "nginx.conf").write_text(
        f"worker_processes 1; daemon off; pid {folder}/pid; error_log {folder}/error.log;"
        "events { worker_connections 4096; } "
        f"http {{ access_log off; {paths} {configuration(port, ports, prefix)} }}"
    )
    process = subprocess.Popen(
        [program, "-p", folder, "-c", folder / "nginx.conf"], preexec_fn=die_with_parent
    )
    address = f"http://127.0.0.1:{port}{prefix}"
    try:
        wait_until(lambda: answers(f"{address}/healthz"), 30, (folder / "error.log").read_text)
        yield address
    finally:
        process.terminate()
        process.wait()


def installed(name: str, package: str) -> str:
    """The path of a program of the system. In CI a missing one is a failure, elsewhere a skip."""
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    if found is None:
        message = f"{name} is not installed: apt-get install {package}."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


def configuration(port: int, ports: Sequence[int], prefix: str) -> str:
    """docs/deploy/nginx.conf with other addresses and without TLS."""
    text = (REPOSITORY / "docs/deploy/nginx.conf").read_text()
    example = re.compile(r"(    server 10\.0\.0\.\d+:7860 max_fails=0;\n)+")
    servers = "".join(f"    server 127.0.0.1:{each} max_fails=0;\n" for each in ports)
    text, replaced = example.subn(servers, text)
    assert replaced == 2
    text = re.sub(r"    ssl_.*\n", "", text.replace("listen 443 ssl", f"listen 127.0.0.1:{port}"))
    if prefix:
        location = rf"location {prefix}\1 {{ proxy_pass \2\1;"
        text = re.sub(r"location (/.*) \{\n +proxy_pass (.+);", location, text)
    return text
