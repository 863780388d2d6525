"""Two machines with one artifact store: what one publishes the other fetches, verifies, and forgets again."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.errors import ArtifactRefused
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import StoredArtifacts, open_artifacts
from storage.settings import Settings
from tests.support.adapters import publish_staged
from tests.support.rows import deploy

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def machines(
    settings: Settings, database: Database, tmp_path: Path
) -> tuple[StoredArtifacts, StoredArtifacts]:
    with database.write() as session:
        model_versions.ensure_base(session, "tiny")
    store = {"artifacts": f"file://{tmp_path}/store", "artifacts_cache_gb": 3500 / 10**9}
    here, there = (
        open_artifacts(settings.model_copy(update=store | {"data_dir": tmp_path / name}), database)
        for name in ("here", "there")
    )
    assert isinstance(here, StoredArtifacts)
    assert isinstance(there, StoredArtifacts)
    return here, there


def publish(database: Database, artifacts: Artifacts) -> ModelVersion:
    def stage(folder: Path) -> None:
        (folder / "adapter_config.json").write_text("{}")
        (folder / WEIGHTS).write_bytes(os.urandom(998))

    return publish_staged(database, artifacts, "tiny", stage)


def verify(artifacts: Artifacts, version: ModelVersion) -> bytes:
    assert version.path is not None
    return (artifacts.verify(version.path, version.files) / WEIGHTS).read_bytes()


def stored_file(artifacts: StoredArtifacts, version: ModelVersion) -> Path:
    folder = Path(artifacts.store.address.removeprefix("file://")) / (version.path or "")
    (file,) = folder.glob(f"*/{WEIGHTS}")
    return file


def cached(artifacts: Artifacts) -> set[str]:
    return {folder.name for folder in artifacts.adapters.iterdir() if folder.is_dir()}


def test_another_machine_fetches_a_version_once_and_again_if_its_copy_is_damaged(
    machines: tuple[StoredArtifacts, StoredArtifacts], database: Database
) -> None:
    here, there = machines
    version = publish(database, here)
    weights = verify(here, version)
    abandoned = there.adapters / f".{version.run_id}.0.part"  # by a download that was killed
    abandoned.mkdir(parents=True)
    assert not there.sweep([version.path or ""]), "a folder that is being filled is no adapter"
    with ThreadPoolExecutor(4) as pool:
        assert set(pool.map(lambda _: verify(there, version), range(4))) == {weights}
    assert cached(there) == {version.run_id}
    (there.folder(version.path or "") / WEIGHTS).write_bytes(b"damage")
    assert verify(there, version) == weights

    file = stored_file(here, version)
    file.write_bytes(b"damage")
    assert verify(there, version) == weights, "it has its own copy"
    (there.folder(version.path or "") / WEIGHTS).unlink()
    with pytest.raises(ArtifactRefused, match=f"{file} is damaged: it has changed .* or train again"):
        verify(there, version)


def test_what_is_served_or_was_just_used_stays_in_the_cache_and_the_rest_goes_by_its_last_use(
    machines: tuple[StoredArtifacts, StoredArtifacts], database: Database
) -> None:
    here, there = machines
    only_here = publish(database, Artifacts(there.data_dir))  # before there was a store
    versions = [only_here, *(publish(database, here) for _ in range(4))]
    deploy(database, versions[1].name)
    for version in versions:
        verify(there, version)
    there.end_run("none")
    assert len(cached(there)) == 5, "each was used within a minute"
    for version, hours in zip(versions, (9, 8, 5, 7, 6), strict=True):
        used = time.time() - 3600 * hours
        os.utime(there.folder(version.path or ""), (used, used))
    there.end_run("none")
    assert cached(there) == {version.run_id for version in versions[:3]}

    assert there.tidy_store(days=1) == []
    (there.folder(only_here.path or "") / WEIGHTS).unlink()
    assert verify(here, only_here), "it was uploaded, and so are others that are only here"


def test_the_sweep_removes_what_no_database_has_known_for_days_and_nothing_of_another_installation(
    machines: tuple[StoredArtifacts, StoredArtifacts], database: Database
) -> None:
    here, there = machines
    known = publish(database, here)
    other = here.store.address.rpartition("/")[0]
    for place in (
        f"{here.store.address}/adapters/lost",
        f"{here.store.address}/runs/over",
        f"{other}/theirs/adapters/a",
    ):
        Path(place.removeprefix("file://")).mkdir(parents=True)
    assert here.tidy_store(days=1) == []
    assert (here.store.names("runs"), here.store.names("unknown")) == ([], ["lost"])
    here.store.write(f"unknown/{known.run_id}", b"0")  # by an older copy of the database
    there.tidy_store(days=1)
    assert here.store.names("unknown") == ["lost"]
    assert there.tidy_store(days=0) == ["lost"]
    assert (here.store.names("adapters"), here.store.names("unknown")) == ([known.run_id], [])
    assert Path(f"{other}/theirs/adapters/a".removeprefix("file://")).exists()
