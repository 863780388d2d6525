"""kill -9 at the worst moments: runs resume, and what was deployed keeps serving."""

from collections.abc import Callable

import pytest

from tests.support import http_loop
from tests.support.live_server import LiveServer, wait_until

PASSES = {"gate_loss_tolerance": 1.0, "gate_auc_tolerance": 1.0, "gate_min_votes": 2}


@pytest.fixture
def server_in_training(
    start_server: Callable[..., LiveServer], request: pytest.FixtureRequest
) -> tuple[LiveServer, str]:
    """A server whose run has taken at least one step and saved a checkpoint, with many more to go."""
    epochs = getattr(request, "param", 30)
    server = start_server(epochs=epochs, checkpoint_steps=2, lease_seconds=15, **PASSES)
    http_loop.chat_and_vote(server.client(), 18)
    run_id = http_loop.request_run(server.client())
    checkpoints = server.settings.data_dir / "runs" / run_id
    wait_until(
        lambda: any(checkpoints.glob("**/checkpoint-*/trainer_state.json")),
        120,
        lambda: http_loop.explain(server, run_id),
    )
    return server, run_id


def test_a_killed_trainer_is_replaced_and_the_run_resumes(server_in_training: tuple[LiveServer, str]) -> None:
    server, run_id = server_in_training
    for trainer in server.trainers():
        trainer.kill()
    client = server.client()
    assert http_loop.chat_once(client, "Still there?")["model_version"] == "v1"
    run = http_loop.wait_for_run(server, client, run_id)
    assert run["state"] == "succeeded", http_loop.explain(server, run_id)
    assert run["attempts"] == 2
    log = (server.settings.data_dir / "runs" / run_id / "train.log").read_text()
    assert "checkpoint" in log.lower(), log
    assert http_loop.chat_once(client, "And now?")["model_version"] == "v2"


def test_a_run_outlives_the_server_that_started_it(server_in_training: tuple[LiveServer, str]) -> None:
    server, run_id = server_in_training
    server.kill()
    assert server.trainers(), "the trainer must not die with the server"
    server.start()
    run = http_loop.wait_for_run(server, server.client(), run_id)
    assert run["state"] == "succeeded", http_loop.explain(server, run_id)
    assert run["attempts"] == 1
    assert http_loop.chat_once(server.client(), "And now?")["model_version"] == "v2"


def test_stopping_the_server_hands_the_run_to_the_next_one(
    server_in_training: tuple[LiveServer, str],
) -> None:
    server, run_id = server_in_training
    assert server.stop() == 0
    assert not server.trainers()
    server.start()
    run = http_loop.wait_for_run(server, server.client(), run_id)
    assert run["state"] == "succeeded", http_loop.explain(server, run_id)


@pytest.mark.parametrize("server_in_training", [300], indirect=True, ids=["long"])
def test_a_run_is_cancelled_in_mid_training(server_in_training: tuple[LiveServer, str]) -> None:
    server, run_id = server_in_training
    client = server.client()
    http_loop.checked(client.post(f"/api/v1/training-runs/{run_id}/cancel"))
    run = http_loop.wait_for_run(server, client, run_id, seconds=30)
    assert run["state"] == "cancelled"
    assert http_loop.deployed(client) == "v1"
    wait_until(lambda: not server.trainers(), 30)
