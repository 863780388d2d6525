"""`transformers serve` as it is installed: a server that is not ours, for tests and benchmarks."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil

from tests.support.live_server import answers, wait_until
from tests.support.programs import free_port


@contextmanager
def transformers_serve(model: Path, folder: Path, *options: str) -> Iterator[tuple[str, psutil.Process]]:
    """Its address and its process; it logs to `folder`."""
    (folder / "hub").mkdir(exist_ok=True)  # it lists what is in there
    log, port = folder / "transformers.log", free_port()
    program = Path(sys.executable).with_name("transformers")
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, "serve", model, "--port", str(port), "--device", "cpu", *options],
            stdout=output,
            stderr=output,
            env={**os.environ, "HF_HOME": str(folder)},
        )
    url = f"http://127.0.0.1:{port}"
    try:
        wait_until(lambda: answers(f"{url}/health"), 240, log.read_text)
        yield url, psutil.Process(process.pid)
    finally:
        process.kill()
        process.wait()
