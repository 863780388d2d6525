"""kill -9 at the worst moments: a run goes on, and what was deployed keeps serving."""

from tests.support import http_loop
from tests.support.live_server import StartServer, wait_until
from tests.support.training_env import LENIENT


def test_a_run_goes_on_whether_its_server_stops_or_it_or_its_trainer_is_killed(
    start_server: StartServer,
) -> None:
    server = start_server(epochs=25, checkpoint_steps=2, lease_seconds=15, gate_min_votes=2, **LENIENT)
    http_loop.import_votes(server.client(), 18)
    run_id = http_loop.request_run(server.client())
    folder = server.settings.data_dir / "runs" / run_id
    log = folder / "train.log"

    def wait_for_attempt(number: int) -> None:
        """Until a trainer has begun, has resumed if it is not the first, and has saved a checkpoint."""

        def under_way() -> bool:
            begun = log.exists() and log.read_text().count("Resuming from checkpoint-") == number
            return begun and any(folder.glob("**/checkpoint-*/trainer_state.json"))

        wait_until(under_way, 120, lambda: http_loop.explain(server, run_id))

    wait_for_attempt(0)
    assert server.stop() == 0
    assert not server.trainers()
    server.start()
    wait_for_attempt(1)
    for trainer in server.trainers():
        trainer.kill()
    assert http_loop.chat_once(server.client(), "Still there?")["model_version"] == "v1"
    wait_for_attempt(2)
    server.kill()
    assert server.trainers(), "the trainer must not die with the server"
    server.start()
    run = http_loop.wait_for_run(server, server.client(), run_id)
    assert run["state"] == "succeeded", http_loop.explain(server, run_id)
    assert run["attempts"] == 2, "one that its server stopped does not count"
    assert log.read_text().count("Resuming from checkpoint-") == 2
    assert http_loop.chat_once(server.client(), "And now?")["model_version"] == "v2"
