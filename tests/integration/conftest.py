"""A server that all tests of one module share: they leave it as they found it, or do not care."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.live_server import LiveServer


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    server = LiveServer({"data_dir": tmp_path_factory.mktemp("shared") / "data", "model": str(tiny_model)})
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def stranger(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client("user", "eve") as client:
        yield client
