"""An S3 server of its own process on this machine (moto), with one bucket in memory."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import s3fs
from botocore.exceptions import BotoCoreError

from tests.support.live_server import wait_until
from tests.support.programs import free_port

KEYS = {"key": "a-key", "secret": "a-secret-key"}


class S3Server:
    """`start` it; what it stores is lost when it is stopped."""

    address = "s3://bucket/some/prefix"

    def __init__(self) -> None:
        self.port = free_port()
        self.options: dict[str, Any] = KEYS | {"endpoint_url": f"http://127.0.0.1:{self.port}"}
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(command, stdout=quiet, stderr=quiet, start_new_session=True)
        wait_until(self._has_bucket, 60)

    def pause(self) -> None:
        """Let it take connections and answer none, until it is resumed or stopped."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def _has_bucket(self) -> bool:
        try:
            s3fs.S3FileSystem(**self.options, skip_instance_cache=True).mkdir("bucket")
        except (OSError, BotoCoreError):
            return False
        return True


@contextmanager
def s3_server() -> Iterator[S3Server]:
    server = S3Server()
    server.start()
    try:
        yield server
    finally:
        server.stop()
