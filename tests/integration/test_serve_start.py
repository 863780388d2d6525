"""What a start of the server raises and says: its limits, the admin link, a notice on trust."""

import json
import os
import pty
import re
import signal
import socket
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import httpx
import pytest
import sqlalchemy as sa

from app.commands.serve import most_connections, trust_notice
from storage.chats import chats
from storage.db.database import open_database
from storage.people import users
from storage.registry import model_versions
from storage.settings import Settings
from tests.support import REPOSITORY
from tests.support.http_loop import checked
from tests.support.live_server import LiveServer, answers, at_once, wait_until
from tests.support.rows import add_reply

RAISE = """
import resource
from app.commands.serve import raise_file_limit
resource.setrlimit(resource.RLIMIT_NOFILE, (128, 1024))
print(raise_file_limit(), resource.getrlimit(resource.RLIMIT_NOFILE))
"""

FEW_REPLIES = ("max_concurrent_replies", "max_waiting_replies")
NOBODY = 54321  # has no line in /etc/passwd

# The database then fails at the first write of a start, when everything is built.
REFUSE_ENDS = "CREATE TRIGGER refuse BEFORE UPDATE ON message BEGIN SELECT json('none'); END"


def test_a_start_raises_the_limit_of_open_files_to_the_most() -> None:
    command = [sys.executable, "-c", RAISE]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout == "1024 (1024, 1024)\n"


@pytest.mark.parametrize(("files", "connections"), [(64, 64), (1024, 512), (1_000_000, 10_000)])
def test_connections_leave_half_of_the_open_files_to_the_rest(files: int, connections: int) -> None:
    assert most_connections(files) == connections


def test_in_a_container_it_lives_with_few_files_and_little_memory(tiny_model: Path) -> None:
    """As Kubernetes runs it: a user without a name and a home, who can write to one folder, and SIGTERM.

    The limit of memory is that of docs/deploy, here on what it reserves: more than Kubernetes counts.
    """
    example = (REPOSITORY / "docs/deploy/kubernetes.yaml").read_text()
    (memory,) = re.findall(r"limits: {memory: (\d+)Gi}", example)
    with ExitStack() as left:
        # Not in pytest's folder, below which another user may not look.
        folder = Path(left.enter_context(TemporaryDirectory()))
        data = folder / "data"
        settings = {"data_dir": data, "model": tiny_model, "executor": "local"}
        server = LiveServer({**settings, "max_import_mb": 2, **dict.fromkeys(FEW_REPLIES, 1)})
        server.token()
        limits = f"ulimit -n 256; ulimit -d {int(memory) * 2**20}"
        command = ["sh", "-c", f"{limits}; exec {sys.executable} -m app.cli serve"]
        if os.geteuid() == 0:
            for path in (folder, data, *data.iterdir()):
                os.chown(path, NOBODY, NOBODY)
            reads = ["--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search"]  # the program's files
            user = [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
            command = ["setpriv", *user, *reads, *command]
        environment = server.environment | {"HOME": "/nonexistent", "TMPDIR": str(data)}
        process = subprocess.Popen(command, env=environment, cwd="/", stdout=subprocess.DEVNULL)
        left.callback(process.wait)
        left.callback(process.kill)
        wait_until(lambda: answers(f"{server.url}/readyz"), 120)
        address = "127.0.0.1", server.settings.port
        opened = [left.enter_context(socket.create_connection(address, timeout=60)) for _ in range(260)]
        for connection in opened:
            with suppress(OSError):  # closed at once
                connection.sendall(b"GET / HTTP/1.1\r\nHo")
        with suppress(ConnectionError):
            assert opened[-1].recv(1) == b""
        assert sum(1 for _ in Path(f"/proc/{process.pid}/fd").iterdir()) < 240
        for connection in opened[100:]:
            connection.close()
        wait_until(lambda: answers(f"{server.url}/readyz"))
        with server.visit() as visitor:
            visitor.get("/")
            chat = checked(visitor.post("/api/v1/chats", json={}))["id"]
            asked = visitor.post(f"/api/v1/chats/{chat}/messages?stream=false", json={"content": "Hello"})
            assert checked(asked)["state"] == "complete"
        for connection in opened:
            connection.close()
        with server.client() as admin:
            ask_for_too_much(admin)
            assert admin.get("/readyz").is_success
        process.terminate()
        assert process.wait(timeout=60) == -signal.SIGTERM


def ask_for_too_much(admin: httpx.Client) -> None:
    """More replies at once than are admitted, and files up to more than the limit: bounded or refused."""

    def reply(_: int) -> httpx.Response:
        body = {"model": "deployed", "messages": [{"role": "user", "content": "Hello"}]}
        return admin.post("/v1/chat/completions", json=body)

    row = {"prompt": "Why?", "completion": "Because. " * 3000, "label": True}
    rows = [json.dumps(row | {"prompt": f"Why {n}?"}) for n in range(110)]
    with ThreadPoolExecutor(1) as other:
        importing = other.submit(admin.post, "/api/v1/import", content="\n".join(rows[:75]))
        given = Counter(answer.status_code for answer in at_once(60, reply))
    assert given.keys() == {200, 503}
    assert checked(importing.result())["accepted"] == 75
    assert admin.post("/api/v1/import", content="\n".join(rows)).status_code == 413
    assert len(admin.get("/api/v1/export").text.splitlines()) == 75


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


def test_a_start_that_cannot_write_says_why(live_server: LiveServer) -> None:
    live_server.kill()
    live_server.log.write_text("")
    with closing(open_database(live_server.settings)) as database, database.write() as session:
        session.execute(sa.text("DELETE FROM message WHERE false"))  # holds SQLite's lock
        live_server.start(wait=False)
        assert live_server.process is not None
        assert live_server.process.wait(120) == 2
    said = live_server.log.read_text()
    assert "thumbloop: The database does not answer (database is locked); try again" in said
    assert "Traceback" not in said


def test_an_application_that_cannot_start_says_why(live_server: LiveServer) -> None:
    live_server.kill()
    live_server.log.write_text("")
    with closing(open_database(live_server.settings)) as database, database.write() as session:
        chat = chats.create_chat(session, users.create_anonymous(session).id)
        version = model_versions.deployed_version(session)
        add_reply(session, chat, version_id=version.id).state = "streaming"  # the start wants to end it
        session.execute(sa.text(REFUSE_ENDS))
    live_server.start(wait=False)
    assert live_server.process is not None
    assert live_server.process.wait(120) == 2
    said = live_server.log.read_text()
    assert "thumbloop: The database could not store this (malformed JSON); nothing of it was kept." in said
    assert "Traceback" not in said
