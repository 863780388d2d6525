"""What a start of the server raises and says: its limit of open files, the admin link, a notice on trust."""

import os
import pty
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from app.commands.serve import most_connections, trust_notice
from storage.db.database import open_database
from storage.people import users
from storage.settings import Settings

RAISE = """
import resource
from app.commands.serve import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 1024))
print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))
"""


def test_a_start_raises_the_limit_of_open_files_to_the_most() -> None:
    command = [sys.executable, "-c", RAISE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1024 (1024, 1024)\n"


@pytest.mark.parametrize(("files", "connections"), [(64, 64), (1024, 512), (1_000_000, 10_000)])
def test_connections_leave_half_of_the_open_files_to_the_rest(files: int, connections: int) -> None:
    assert most_connections(files) == connections


def test_a_start_with_accounts_says_that_one_of_them_can_change_the_model() -> None:
    told = trust_notice(Settings(auth="accounts", min_voters=1))
    assert told is not None
    assert "raise THUMBLOOP_MIN_VOTERS" in told
    for settings in (
        Settings(auth="anonymous"),
        Settings(auth="accounts"),
        Settings(auth="accounts", min_voters=1, auto_deploy=False),
    ):
        assert trust_notice(settings) is None


def test_an_ordinary_account_named_admin_does_not_keep_the_server_from_starting(
    tmp_path: Path, tiny_model: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    database = open_database(settings)
    with database.write() as session:
        users.create_user(session, "admin")
    database.close()
    ours, theirs = pty.openpty()
    names = {"THUMBLOOP_DATA_DIR": str(settings.data_dir), "THUMBLOOP_MODEL": str(tiny_model)}
    with subprocess.Popen(
        [sys.executable, "-m", "app.cli", "serve"],
        env=os.environ | names | {"THUMBLOOP_PORT": "0", "THUMBLOOP_SCHEDULE": "", "COLUMNS": "300"},
        stdout=theirs,
        stderr=subprocess.STDOUT,
    ) as server:
        os.close(theirs)
        said = b""
        try:
            while b"Ctrl-C stops it." not in said:
                said += os.read(ours, 65536)  # raises OSError if the server ends before
        finally:
            server.send_signal(signal.SIGINT)
            os.close(ours)
    assert b"no link: The user 'admin' is 'user', not 'admin'" in said
    assert b"Traceback" not in said
