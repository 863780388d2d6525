"""The commands as people run them: processes with arguments, pipes and exit codes."""

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from storage.people.users import find_user, verify_password
from tests.support import http_loop
from tests.support.command_line import PROGRAM, CommandLine
from tests.support.live_server import LiveServer, get
from tests.support.programs import run_command
from tests.support.rated_files import rated, write_rows


@pytest.fixture
def rated_chats(tmp_path: Path) -> Path:
    """24 rated chats as a file."""
    return write_rows(tmp_path / "rated.jsonl", map(rated, range(24)))


def test_what_needs_no_model_loads_no_model_library(thumbloop: CommandLine) -> None:
    script = (
        "import sys\n"
        "from app.cli import cli\n"
        "cli(['versions'], standalone_mode=False)\n"
        "print(*{'torch', 'transformers', 'gradio', 'datasets'} & sys.modules.keys())"
    )
    ended = subprocess.run(
        [sys.executable, "-c", script], env=thumbloop.environment, capture_output=True, text=True, check=True
    )
    assert ended.stdout.splitlines()[1:] == [""]


def test_version_and_help_need_no_installation(thumbloop: CommandLine) -> None:
    assert re.fullmatch(r"thumbloop \d+\.\d+\.\d+\n", thumbloop.output("--version"))
    assert "admin-link" in thumbloop.output("--help")
    assert "No such command" in thumbloop.run("nonsense", code=2).stderr
    assert not thumbloop.data_dir.exists()


def test_settings_say_where_their_values_come_from(thumbloop: CommandLine, tmp_path: Path) -> None:
    thumbloop.settings["database_url"] = "postgresql+psycopg://ada:secret@db/thumbloop"
    (tmp_path / "thumbloop.toml").write_text("beta = 0.25\nport = 8000\n")
    listed = run_command("settings", environment=thumbloop.environment, folder=tmp_path, check=True).stdout
    lines = listed.splitlines()
    assert "THUMBLOOP_BETA=0.25 (thumbloop.toml)" in lines
    assert "THUMBLOOP_PORT=1 (environment)" in lines
    assert "THUMBLOOP_EPOCHS=1.0 (default)" in lines
    assert "THUMBLOOP_DATABASE_URL=postgresql+psycopg://ada:***@db/thumbloop (environment)" in lines
    texts = [line for line in lines if line.startswith("    ")]
    assert max(map(len, texts)) <= 100
    assert "    Port to listen on. 0 takes a free one." in texts


def test_settings_that_do_not_exist_are_refused(thumbloop: CommandLine) -> None:
    thumbloop.settings["colour"] = "red"
    assert "THUMBLOOP_COLOUR" in thumbloop.refused("versions", code=2)
    del thumbloop.settings["colour"]
    thumbloop.settings["epochs"] = "many"
    refused = thumbloop.refused("versions", code=2)
    assert "'many'" in refused
    assert "`thumbloop settings THUMBLOOP_EPOCHS`" in refused
    for name in ("THUMBLOOP_EPOCHS", "epochs"):  # also while the value is refused
        assert "Takes: number > 0. Default: 1.0." in thumbloop.output("settings", name)
    assert "COLOUR is not a setting" in thumbloop.refused("settings", "COLOUR", code=2)


def test_accounts(thumbloop: CommandLine) -> None:
    def states() -> dict[str, list[str]]:
        lines = thumbloop.output("user", "list").splitlines()[1:]
        return {line.split()[0]: line.split()[1:3] for line in lines}

    secret = "correct horse battery"
    thumbloop.output("user", "create", "ada", "--role", "admin", "--password-stdin", stdin=f"{secret}\n")
    assert states() == {"ada": ["admin", "active"]}
    assert "already" in thumbloop.refused("user", "create", "ada", "--password-stdin", stdin=secret)
    assert "10 characters" in thumbloop.refused("user", "create", "bob", "--password-stdin", stdin="short")
    assert "--password-stdin" in thumbloop.refused("user", "create", "bob")  # no terminal to ask at
    link = thumbloop.output("user", "invite", "ada")
    assert "/password-link?token=tl_" in link
    assert "'bob'" in thumbloop.refused("user", "role", "bob", "admin")

    thumbloop.output("user", "role", "ada", "user")
    thumbloop.output("user", "disable", "ada")
    assert states() == {"ada": ["user", "disabled"]}
    thumbloop.output("user", "disable", "ada", "--undo")
    thumbloop.output("user", "password", "ada", "--password-stdin", stdin=f"{secret}!\n")
    assert states() == {"ada": ["user", "active"]}
    with thumbloop.database() as database, database.read() as session:
        assert verify_password(find_user(session, "ada"), f"{secret}!").name == "ada"


def test_tokens(thumbloop: CommandLine) -> None:
    plain = thumbloop.output("token", "create", "robot", "--role", "admin", "--plain")
    assert re.fullmatch(r"tl_[\w-]{43}\n", plain)
    created = thumbloop.output(
        "token", "create", "robot", "--role", "admin", "--scope", "vote", "--scope", "read"
    )
    assert "robot" in created
    assert "'delete' is not one of read, vote" in thumbloop.refused(
        "token", "create", "x", "--scope", "delete"
    )
    assert "thumbloop user role" in thumbloop.refused("token", "create", "robot", "--role", "user")
    rows = [line.split() for line in thumbloop.output("token", "list").splitlines()[1:]]
    assert [row[1:3] for row in rows] == [["robot", "admin"]] * 2
    assert [row[3] for row in rows] == ["all", "read,vote"]
    assert rows[0][4] == f"{plain[:8]}…"

    thumbloop.output("token", "revoke", rows[0][0])
    states = [line.split()[5] for line in thumbloop.output("token", "list").splitlines()[1:]]
    assert states == ["revoked", "active"]
    assert "no token" in thumbloop.refused("token", "revoke", "nonsense")


def test_import_and_export(thumbloop: CommandLine, rated_chats: Path, tmp_path: Path) -> None:
    assert thumbloop.output("import", str(rated_chats)).startswith("24 imported, 0 duplicates")
    again = thumbloop.output("import", "-", stdin=rated_chats.read_text())
    assert again.startswith("0 imported, 24 duplicates")
    exported = tmp_path / "exported.jsonl"
    assert thumbloop.output("export", str(exported)).startswith("24 rows")
    rows = [json.loads(line) for line in exported.read_text().splitlines()]
    assert rows[1]["prompt"][-1] == {"role": "user", "content": "What is 1 plus 1?"}
    assert [row["label"] for row in rows] == [n % 3 != 0 for n in range(24)]
    assert thumbloop.output("export", "-") == exported.read_text()

    broken = "{broken\n" + json.dumps({"prompt": "New", "completion": "Row", "label": True})
    assert "standard input, line 1" in thumbloop.refused("import", "-", stdin=broken)
    assert thumbloop.output("import", "-", "--skip-bad", stdin=broken).endswith("1 left out.\n")
    assert "nowhere.jsonl" in thumbloop.refused("import", str(tmp_path / "nowhere.jsonl"))
    assert "cannot be written" in thumbloop.refused("export", str(tmp_path / "nowhere" / "out.jsonl"))


def test_train_without_a_server_then_roll_back_and_deploy(thumbloop: CommandLine, rated_chats: Path) -> None:
    assert "votes" in thumbloop.run("train", "--fresh", code=3).stdout  # skipped
    thumbloop.output("import", str(rated_chats))
    # Whether two passes over random words make a tiny model better is not the question here.
    thumbloop.settings |= {"gate_loss_tolerance": 100, "gate_auc_tolerance": 1}
    assert "v2 is deployed" in thumbloop.output("train")

    def deployed() -> str:
        return next(line.split()[1] for line in thumbloop.output("versions").splitlines() if line[0] == "*")

    assert deployed() == "v2"
    assert "v1" in thumbloop.output("rollback", "--why", "I liked the old one")
    assert deployed() == "v1"
    assert "nothing to roll back to" in thumbloop.refused("rollback")
    thumbloop.output("deploy", "v2")
    assert deployed() == "v2"
    assert "'v3'" in thumbloop.refused("deploy", "v3")

    thumbloop.settings["gate_prompts"] = 4
    evaluated = thumbloop.output("evaluate", "v2", "--against", "v1")
    assert re.search(r"base +compared with +v2 *$", evaluated, re.MULTILINE), evaluated
    assert re.search(r"^ *words( +\d\S*){3} *$", evaluated, re.MULTILINE), evaluated
    assert evaluated.rstrip().endswith(".")
    assert "v1 is the base model" in thumbloop.refused("evaluate", "v1")
    assert "'v3'" in thumbloop.refused("evaluate", "v3")
    assert deployed() == "v2"

    thumbloop.output("rollback")
    assert "No canary is under way" in thumbloop.output("canary", "show")
    assert "No canary is under way" in thumbloop.refused("canary", "end")
    assert "above 0 and below 1" in thumbloop.refused("canary", "start", "v2", "--share", "1")
    started = thumbloop.output("canary", "start", "v2")
    assert started == "v2 answers 10% of the chats that begin from now on.\n"
    assert "canary 10%" in thumbloop.output("versions")
    assert "The base model answers first." in thumbloop.output("versions", "--history")
    shown = thumbloop.output("canary", "show")
    assert "no votes" in shown
    assert "It was given 0 chats since" in shown
    assert deployed() == "v1"
    assert "v1 answers its 0 chats" in thumbloop.output("canary", "end", "--why", "enough")

    (weights,) = thumbloop.data_dir.glob("adapters/*/adapter_model.safetensors")
    weights.write_bytes(weights.read_bytes()[:-1])
    for command in (("deploy",), ("canary", "start")):
        refusal = thumbloop.refused(*command, "v2", code=2)
        assert "adapter_model.safetensors has changed" in refusal
    assert deployed() == "v1"


def test_train_left_running_then_cancelled(thumbloop: CommandLine, rated_chats: Path) -> None:
    thumbloop.output("import", str(rated_chats))
    thumbloop.settings["epochs"] = 5000
    followed = thumbloop.start("train")
    followed.wait_for("\ntraining\n")
    followed.send_signal(signal.SIGINT)  # nobody can be asked, so the run is left alone
    assert followed.wait() == 5
    assert "continues in the background" in followed.printed()

    # Now at a terminal: the same run is followed, and Ctrl-C asks.
    pid, terminal = pty.fork()
    if pid == 0:
        os.execve(PROGRAM[0], [*PROGRAM, "train"], thumbloop.environment)
    screen = Terminal(terminal)
    screen.wait_for("training")
    screen.type("\x03")
    screen.wait_for("cancel it")
    screen.type("cancel\n")
    screen.wait_for("Cancelled:")
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 4


class Terminal:
    """The screen of a program under a pseudo-terminal."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.shown = ""

    def type(self, keys: str) -> None:
        os.write(self.descriptor, keys.encode())

    def wait_for(self, text: str) -> None:
        """Read on until the text is shown; a program that ends or is silent too long fails the test."""
        while text not in self.shown:
            ready, _, _ = select.select([self.descriptor], [], [], 120)
            assert ready, f"{text!r} was not shown: {self.shown}"
            self.shown += os.read(self.descriptor, 65536).decode(errors="replace")
        self.shown = self.shown.partition(text)[2]


def test_train_beside_a_server_is_the_servers_work(live_server: LiveServer, rated_chats: Path) -> None:
    http_loop.checked(live_server.client().post("/api/v1/import", content=rated_chats.read_bytes()))
    ended = run_command("train", environment=live_server.environment, check=True)
    assert "Succeeded: v2" in ended.stdout
    assert "Starting a trainer" in live_server.log.read_text()


def test_links_work_once_and_end_in_no_log(live_server: LiveServer) -> None:
    assert "thumbloop admin-link" in live_server.log.read_text()  # its output is no terminal
    for _ in range(2):
        ended = run_command("admin-link", environment=live_server.environment, check=True)
        link = ended.stdout.strip()
        with httpx.Client(follow_redirects=True, timeout=60) as browser:
            page = browser.get(link)
            assert (page.status_code, page.url.path) == (200, "/admin/")
        assert get(link).status_code == 403
    served = live_server.log.read_text()
    assert "/admin HTTP" in served  # the access log has the request and not its token
    assert "tl_" not in served
    assert live_server.stop() == 0


def test_doctor_says_what_is_missing(thumbloop: CommandLine, tmp_path: Path) -> None:
    thumbloop.settings |= {"executor": "slurm", "slurm": '{"cluster": "local"}'}
    report = thumbloop.output("doctor")
    assert "Jobs on other machines need PostgreSQL" in report
    lines = report.splitlines()
    assert {line.split()[1] for line in lines if line[0] != " "} >= {"torch", "memory", "database", "model"}
    assert not any(line.startswith("fail") for line in lines)
    assert not thumbloop.data_dir.exists()  # it only looks

    (tmp_path / "file").write_text("in the way")
    thumbloop.settings |= {"model": tmp_path / "nothing", "data_dir": tmp_path / "file" / "data", "slurm": ""}
    report = thumbloop.run("doctor", code=1).stdout
    assert "THUMBLOOP_MODEL" in report
    assert "THUMBLOOP_DATA_DIR" in report
    assert 'Could not detect "srun"' in report
