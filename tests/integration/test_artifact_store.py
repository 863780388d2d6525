"""A server and trainers that share a database and an artifact store, and no folder."""

import logging
import signal
from pathlib import Path
from typing import Any

import pytest

from app.commands.doctor import check_artifacts
from storage.errors import Busy, StoreUnavailable
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings
from tests.support.adapters import publish_adapter
from tests.support.chat_env import HELLO, SAMPLING, MakeServing, alias, move_alias, reply
from tests.support.http_loop import chat_once
from tests.support.live_server import StartServer, wait_until
from tests.support.s3_server import S3Server
from tests.support.training_env import LONG, Build
from trainer.runs import attempt


def test_a_server_serves_what_a_trainer_with_a_folder_of_its_own_has_made(
    build: Build, start_server: StartServer, artifact_store: dict[str, Any], tmp_path: Path
) -> None:
    shared = artifact_store | {"database_url": f"sqlite:///{tmp_path}/shared.db"}
    env = build(**shared)
    env.vote(20)
    assert env.train(env.request()) == attempt.DONE
    env.close()
    server = start_server(**shared, data_dir=tmp_path / "server")
    assert "v2 replies from now on" in server.log.read_text()
    with server.client() as client:
        assert chat_once(client, "Hi")["content"]


def test_a_version_that_cannot_be_fetched_waits_and_the_one_before_replies(
    make_serving: MakeServing,
    settings: Settings,
    artifact_store: dict[str, Any],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.ERROR)
    serving = make_serving(**artifact_store)
    serving.deployments.start()
    elsewhere = settings.model_copy(update=artifact_store | {"data_dir": tmp_path / "elsewhere"})
    made = publish_adapter(serving.database, open_artifacts(elsewhere, serving.database), serving.model)
    there, away = Path(artifact_store["artifacts"].removeprefix("file://")), tmp_path / "away"
    there.rename(away)
    with pytest.raises(StoreUnavailable, match="the folder is missing.* is empty: mount it, or set"):
        serving.deployments.deploy("v2", by="ada", why="better")
    with pytest.raises(Busy, match="v2 cannot be fetched now"):
        serving.deployments.stream(HELLO, SAMPLING, version_id=made.id)
    assert alias(serving.database) == "v1"
    move_alias(serving.database, "v2")
    wait_until(lambda: "v2 is deployed but waits for the artifact store, so v1 keeps replying" in caplog.text)
    assert reply(serving.deployments)[0] == "v1"
    away.rename(there)
    wait_until(lambda: reply(serving.deployments)[0] == "v2")


@pytest.mark.parametrize("artifact_store", ["s3"], indirect=True)
def test_a_run_goes_on_on_another_machine_and_waits_for_a_store_that_is_away(
    build: Build, artifact_store: dict[str, Any], s3: S3Server, tmp_path: Path
) -> None:
    env = build(**artifact_store, **LONG, database_url=f"sqlite:///{tmp_path}/shared.db")
    env.vote(20)
    run_id = env.request()
    killed = env.start_and_reach_checkpoint(run_id)
    wait_until(lambda: env.has_stored_checkpoint(run_id))
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    wait_until(env.claimable)

    going_on = env.start(run_id, data_dir=tmp_path / "other")
    going_on.wait_for("Fetched the checkpoint of step")
    s3.stop()  # and it loses what it had
    going_on.wait_for("Trying again for")
    s3.start()
    assert going_on.wait() == attempt.DONE, going_on.printed()
    assert "Resuming from checkpoint-" in going_on.printed()
    run = env.run(run_id)
    assert (run.state, run.attempts, env.deployed()) == ("succeeded", 2, "v2")
    assert env.stored().store.names("runs") == []
    version = env.version("v2")
    assert env.stored().verify(version.path or "", version.files), "this machine fetches it"


def test_the_doctor_tries_the_store_and_leaves_nothing_there(
    settings: Settings, artifact_store: dict[str, Any], tmp_path: Path
) -> None:
    assert check_artifacts(settings).text == "adapters and checkpoints are in the data directory"
    assert check_artifacts(settings.model_copy(update=artifact_store)).status == "ok"
    assert not list(Path(artifact_store["artifacts"].removeprefix("file://")).iterdir())
    (tmp_path / "file").touch()
    failed = check_artifacts(settings.model_copy(update={"artifacts": f"file://{tmp_path}/file"}))
    assert failed.status == "fail"
    assert f"The artifact store file://{tmp_path}/file is unavailable (" in failed.remedy
