"""Versions, the alias and rolling back, on both engines; adapter folders on disk."""

import os
import time
from pathlib import Path

import pytest

from storage.db.database import Database
from storage.errors import ArtifactRefused, Conflict, NotFound
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts, Published
from tests.support.adapters import seal_and_publish
from tests.support.rows import add_version, deploy, roll_back


def deployed(database: Database) -> str:
    with database.read() as session:
        return model_versions.deployed_version(session).name


def test_rolling_back_twice_goes_back_two_steps(database: Database) -> None:
    for _ in range(2):
        deploy(database, add_version(database))
    assert deployed(database) == "v3"
    assert [roll_back(database), roll_back(database)] == ["v2", "v1"]
    with pytest.raises(Conflict, match="nothing to roll back"):
        roll_back(database)
    deploy(database, "v3")
    assert deployed(database) == "v3"


def test_rolling_back_undoes_the_deployment_of_an_older_version(database: Database) -> None:
    for _ in range(2):
        deploy(database, add_version(database))
    deploy(database, "v1")
    assert [roll_back(database) for _ in range(3)] == ["v3", "v2", "v1"]
    deploy(database, "v2")
    deploy(database, "v1")
    assert roll_back(database) == "v2"


def test_a_rejected_version_is_never_deployed_and_a_candidate_is_when_an_admin_says_so(
    database: Database,
) -> None:
    rejected, candidate = add_version(database, "rejected"), add_version(database, "candidate")
    with pytest.raises(Conflict, match="The gate says rejected"):
        deploy(database, rejected)
    assert deployed(database) == "v1"
    refused = add_version(database, "candidate")
    with database.write() as session:
        model_versions.reject_version(session, refused, by="ada", why="It rambles.")
        with pytest.raises(Conflict, match="is rejected; only"):
            model_versions.reject_version(session, refused, by="ada", why="Still.")
    with pytest.raises(Conflict, match="The gate says candidate. An admin rejected it: It rambles."):
        deploy(database, refused)
    deploy(database, candidate)
    with database.read() as session:
        assert model_versions.get_version(session, candidate).state == "ready"
    for unknown in ("v99", "v", "vx", "", "v99999999999999999999", "no-such-id"):
        with pytest.raises(NotFound):
            deploy(database, unknown)


def test_a_database_of_another_base_model_is_refused(database: Database) -> None:
    with database.write() as session:
        model_versions.ensure_base(session, "tiny")
    with pytest.raises(Conflict, match="'tiny', not 'other'"), database.write() as session:
        model_versions.ensure_base(session, "other")


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


def stage(artifacts: Artifacts, run_id: str) -> Path:
    folder = artifacts.staging(run_id)
    (folder / "adapter_config.json").write_text("{}")
    (folder / "adapter_model.safetensors").write_bytes(b"weights")
    return folder


def published(artifacts: Artifacts, run_id: str) -> Published:
    stage(artifacts, run_id)
    return seal_and_publish(artifacts, run_id)


def test_a_published_folder_verifies_and_every_change_to_it_is_refused(artifacts: Artifacts) -> None:
    of_run = published(artifacts, "run")
    folder = artifacts.verify(of_run.path, of_run.files)
    weights = folder / "adapter_model.safetensors"

    weights.write_bytes(b"weightz")
    with pytest.raises(ArtifactRefused, match="adapter_model.safetensors has changed"):
        artifacts.verify(of_run.path, of_run.files)
    weights.unlink()
    with pytest.raises(ArtifactRefused, match="adapter_model.safetensors is missing"):
        artifacts.verify(of_run.path, of_run.files)
    weights.write_bytes(b"weights")
    for name in ("training_args.bin", "README.md"):
        (folder / name).write_text("x")
        with pytest.raises(ArtifactRefused, match=name):
            artifacts.verify(of_run.path, of_run.files)
        (folder / name).unlink()
    assert artifacts.verify(of_run.path, of_run.files) == folder


def test_publishing_again_replaces_what_a_killed_attempt_left(artifacts: Artifacts) -> None:
    stage(artifacts, "run")
    first = seal_and_publish(artifacts, "run")
    (stage(artifacts, "run") / "README.md").write_text("card")
    second = seal_and_publish(artifacts, "run")
    assert second.path == first.path
    assert "README.md" in second.files
    assert artifacts.verify(second.path, second.files).exists()


def test_what_the_database_does_not_know_goes_to_the_trash_and_stays_there_for_days(
    artifacts: Artifacts,
) -> None:
    known = published(artifacts, "known")
    (artifacts.adapters / ".DS_Store").write_text("stray")
    for _ in range(2):
        published(artifacts, "unknown")
        assert artifacts.sweep([known.path]) == ["unknown"]
    assert artifacts.verify(known.path, known.files).exists()
    assert (artifacts.adapters / ".DS_Store").exists()
    for name in ("unknown", "unknown.again"):
        assert (artifacts.trash / name / "adapter_model.safetensors").exists()
    long_ago = time.time() - 3 * 86_400
    os.utime(artifacts.trash / "unknown", (long_ago, long_ago))
    assert artifacts.empty_trash(days=2) == ["unknown"]
    assert [path.name for path in artifacts.trash.iterdir()] == ["unknown.again"]


def test_a_data_directory_refuses_the_database_of_another_installation(artifacts: Artifacts) -> None:
    artifacts.check_installation(None, "sqlite")  # nothing is there yet
    artifacts.note_installation("ours")
    artifacts.check_installation("ours", "sqlite")
    for other, words in (("theirs", "belongs to theirs"), (None, "is new")):
        with pytest.raises(Conflict, match=f"belongs to the installation ours, but .* {words}"):
            artifacts.check_installation(other, "postgresql")


def test_adapters_without_an_installation_id_are_kept_from_a_new_database_only(artifacts: Artifacts) -> None:
    published(artifacts, "run")
    artifacts.check_installation("a database that was used before", "sqlite")
    with pytest.raises(Conflict, match="holds 1 trained adapters, but the database sqlite is new"):
        artifacts.check_installation(None, "sqlite")
