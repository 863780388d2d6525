"""Folders in a store: in a file system, and on an S3 server of its own process."""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fsspec
import pytest

from storage.errors import ArtifactRefused, StoreUnavailable
from storage.files.object_store import ObjectStore
from tests.support.live_server import wait_until
from tests.support.s3_server import S3Server

Open = Callable[..., ObjectStore]
both = pytest.mark.parametrize("artifact_store", ["file", "s3"], indirect=True)


@pytest.fixture
def opened(artifact_store: dict[str, Any]) -> ObjectStore:
    return ObjectStore(artifact_store["artifacts"], artifact_store.get("artifacts_options", {}), patience=0)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    found = {"weights": tmp_path / "weights", "part/state.json": tmp_path / "state"}
    for name, path in found.items():
        path.write_text(f"This is {name}.")
    return found


def fetched(store: ObjectStore, folder: str, target: Path) -> dict[str, str] | None:
    target.mkdir()
    if not store.fetch(folder, target):
        return None
    return {str(path.relative_to(target)): path.read_text() for path in target.rglob("*") if path.is_file()}


@both
def test_a_folder_is_read_as_it_was_written_and_damage_is_named(
    artifact_store: dict[str, Any], opened: ObjectStore, files: dict[str, Path], tmp_path: Path
) -> None:
    assert (opened.names("runs"), opened.read("a"), opened.manifest("runs/7")) == ([], None, None)
    opened.put("runs/7", files)
    opened.put("runs/7", files)  # by a second attempt
    assert opened.names("runs") == ["7"]
    content = {name: path.read_text() for name, path in files.items()}
    assert fetched(opened, "runs/7", tmp_path / "good") == content
    assert fetched(opened, "runs/8", tmp_path / "none") is None
    state = {"part/state.json": files["part/state.json"]}
    with pytest.raises(FileNotFoundError):
        opened.put("runs/7", state | {"weights": tmp_path / "nowhere"})
    assert opened.manifest("runs/7"), "nothing was begun"
    opened.put("runs/7", state | {"weights": tmp_path / "state"})
    assert fetched(opened, "runs/7", tmp_path / "renewed") == dict.fromkeys(files, content["part/state.json"])
    opened.write("mark", b"1")
    opened.write("mark", b"2")
    assert opened.read("mark") == b"2"

    raw, root = fsspec.url_to_fs(artifact_store["artifacts"], **artifact_store.get("artifacts_options", {}))
    raw.pipe_file(f"{root}/runs/7/weights", b"This is damage.")
    with pytest.raises(ArtifactRefused, match=r"/runs/7/weights is damaged: it has changed .* train again"):
        fetched(opened, "runs/7", tmp_path / "damaged")
    raw.rm(f"{root}/runs/7/weights")
    with pytest.raises(ArtifactRefused, match="/runs/7/weights is damaged: it is missing"):
        fetched(opened, "runs/7", tmp_path / "missing")
    outside = json.dumps({"../x": {"bytes": 1, "sha256": ""}})
    for written, why in (
        ("{", "it is no manifest"),
        ("[]", "it is no manifest"),
        (outside, r"it names '\.\./x'"),
    ):
        opened.write("runs/7/manifest.json", written.encode())
        with pytest.raises(ArtifactRefused, match=f"manifest.json is damaged: {why}"):
            fetched(opened, "runs/7", tmp_path / f"odd-{len(written)}")
    for path in ("runs/7", "mark", "mark"):
        opened.remove(path)
    assert (opened.names("runs"), opened.read("mark")) == ([], None)


UPLOAD = """
import json, sys
from pathlib import Path
from storage.files.object_store import ObjectStore
address, options, file = sys.argv[1:]
ObjectStore(address, json.loads(options), patience=0).put("a", {f"{n}": Path(file) for n in range(2000)})
"""


def test_nobody_reads_what_a_killed_upload_left_and_the_next_one_succeeds(
    s3: S3Server, files: dict[str, Path], tmp_path: Path
) -> None:
    store = ObjectStore(f"{s3.address}/killed", s3.options, patience=0)
    file = files["weights"]
    options = json.dumps(s3.options)
    uploading = subprocess.Popen([sys.executable, "-c", UPLOAD, store.address, options, str(file)])
    wait_until(lambda: len(store.names("a")) > 2 or uploading.poll() is not None)
    assert uploading.poll() is None
    uploading.kill()
    uploading.wait()
    assert store.names("a")
    assert fetched(store, "a", tmp_path / "half") is None
    store.put("a", {"1": file})
    assert fetched(store, "a", tmp_path / "whole") == {"1": file.read_text()}


def test_a_server_that_is_away_is_asked_again_and_the_error_names_it_but_no_key(
    files: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = S3Server()
    asked: list[int] = []

    def start_at_the_second() -> None:
        asked.append(1)
        if len(asked) == 2:
            server.start()

    try:
        patient = ObjectStore(server.address, server.options, patience=60, check=start_at_the_second)
        patient.put("a", files)
        assert len(asked) == 2
        assert fetched(patient.hurried(), "a", tmp_path / "a") is not None
        server.pause()
        quick = server.options | {"config_kwargs": {"read_timeout": 0.1}}
        with pytest.raises(StoreUnavailable, match="ReadTimeoutError"):
            ObjectStore(server.address, quick, patience=0).names("a")
        hasty = ObjectStore(server.address, server.options, patience=0, silence=0.5)
        for upload in (partial(hasty.upload, "b", files["weights"]), partial(hasty.write, "c", b"1")):
            with pytest.raises(StoreUnavailable, match=r"\(FSTimeoutError\)"):
                upload()
    finally:
        server.stop()
    with pytest.raises(StoreUnavailable) as failed:
        patient.hurried().names("a")
    said = f"{failed.value} {caplog.text}"
    assert f"The artifact store {server.address} is unavailable" in said
    assert str(server.port) in said
    assert server.options["secret"] not in said
