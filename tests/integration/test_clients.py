"""Other people's clients talk to a real server, whole and as a stream, and their replies are voted on.

The clients have an environment of their own, because they would decide which libraries Thumbloop has:
`make test-clients` installs them and runs these tests, which are skipped elsewhere.
"""

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import http_loop
from tests.support.live_server import LiveServer

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "tests" / "support" / "clients"
INSTALLED = Path(os.environ.get("THUMBLOOP_TEST_CLIENTS", ROOT / "build" / "clients"))
PYTHON, NODE_MODULES = INSTALLED / "python" / "bin" / "python", INSTALLED / "node_modules"
RUNNERS = {".py": (PYTHON, [str(PYTHON)]), ".mjs": (NODE_MODULES, ["node"])}
NAMES = sorted(path.name for path in SCRIPTS.glob("with_*"))


@pytest.fixture(scope="module")
def rest(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client("user", "clients") as client:
        yield client


@pytest.mark.parametrize("name", NAMES)
def test_a_client_talks_streams_and_its_reply_is_voted_on(
    shared_server: LiveServer, rest: httpx.Client, tmp_path: Path, name: str
) -> None:
    needed, command = RUNNERS[Path(name).suffix]
    if not needed.exists():
        pytest.skip(f"{needed} is not there; make test-clients installs the clients")
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "BASE_URL": f"{shared_server.url}/v1",
        "API_KEY": shared_server.token("user", "clients"),
        "NODE_MODULES": str(NODE_MODULES),
        "NO_PROXY": "*",
    }
    ended = subprocess.run(
        [*command, str(SCRIPTS / name)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert ended.returncode == 0, ended.stderr
    said = json.loads(ended.stdout)
    asked = {
        "model": "deployed",
        "messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello"}],
        "temperature": 0,
        "max_tokens": 12,
    }
    expected = http_loop.checked(rest.post("/v1/chat/completions", json=asked))["choices"][0]["message"]
    assert [one["whole"] for one in said] == [expected["content"]] * len(said)
    for one in said[::2]:
        assert http_loop.vote(rest, one["id"], True)["revision"] == 1
