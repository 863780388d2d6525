"""Pushing an export to a hub: a server on this machine that speaks its protocol."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from storage.db.database import Database
from storage.errors import InvalidInput
from storage.exports.exporter import Export, export_to
from storage.exports.hub import push_to_hub
from storage.exports.plan import ExportPlan
from tests.support.fake_hub import HUB_SETTINGS, FakeHub
from tests.support.rated_store import SALT, fill

PUSH = """
import sys
from pathlib import Path
from storage.errors import NotReady
from storage.exports.hub import push_to_hub

folder, token, endpoint = sys.argv[1:]
try:
    print(push_to_hub(Path(folder), "me/feedback", token=token, endpoint=endpoint))
except NotReady as error:
    sys.exit(f"{error.code}: {error.message}")
"""


@pytest.fixture
def hub() -> Iterator[FakeHub]:
    hub = FakeHub(token="hf_secret")
    yield hub
    hub.close()


@pytest.fixture
def folder(database: Database, tmp_path: Path) -> Path:
    fill(database, 4)
    with database.read() as session:
        export_to(tmp_path / "out", Export(session, ExportPlan(format="datasets"), salt=SALT))
    return tmp_path / "out"


def push(folder: Path, token: str, endpoint: str) -> subprocess.CompletedProcess[str]:
    # In a process of its own: the tests' is kept from any hub.
    return subprocess.run(
        [sys.executable, "-c", PUSH, str(folder), token, endpoint],
        env=os.environ | HUB_SETTINGS,
        capture_output=True,
        text=True,
    )


def test_the_folder_arrives_whole_in_one_commit(folder: Path, hub: FakeHub) -> None:
    done = push(folder, "hf_secret", hub.endpoint)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{hub.endpoint}/datasets/me/feedback/commit/{'0' * 40}"
    assert hub.files == {
        str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()
    }
    (_, path, created), *_, (_, _, commit) = hub.requests
    assert path == "/api/repos/create"
    assert (created["organization"], created["name"], created["type"]) == ("me", "feedback", "dataset")
    assert created.get("visibility") == "private" or created.get("private") is True
    assert "rows, sha256" in commit["value"]["summary"]


def test_a_hub_that_refuses_is_named(folder: Path, hub: FakeHub) -> None:
    done = push(folder, "hf_wrong", hub.endpoint)
    assert done.returncode == 1
    assert done.stderr.startswith("push_failed: The hub did not take me/feedback: ")
    assert "401" in done.stderr
    assert hub.files == {}


def test_what_is_no_export_or_no_name_is_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="such as you/feedback"):
        push_to_hub(folder, "feedback")
    with pytest.raises(InvalidInput, match="README.md is missing"):
        push_to_hub(tmp_path, "me/feedback")
