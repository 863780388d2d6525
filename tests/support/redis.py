"""A real Redis server on a free port."""

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.live_server import die_with_parent, wait_until
from tests.support.programs import free_port
from tests.support.proxy import installed


@contextmanager
def redis_server(folder: Path, port: int = 0) -> Iterator[str]:
    """Its address; it keeps nothing on disk."""
    import redis

    program, port = installed("redis-server", "redis-server"), port or free_port()
    options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen([program, *options], stdout=subprocess.DEVNULL, preexec_fn=die_with_parent)
    address = f"redis://127.0.0.1:{port}"

    def is_up() -> bool:
        try:
            return bool(redis.Redis.from_url(address).ping())
        except redis.ConnectionError:
            return False

    try:
        wait_until(is_up, 30)
        yield address
    finally:
        process.kill()
        process.wait()
