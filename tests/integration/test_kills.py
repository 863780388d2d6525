"""kill -9 at the worst moments: nothing acknowledged is lost, and what was deployed keeps serving."""

import contextlib
import threading
from collections.abc import Callable

import httpx
import pytest

from storage import votes
from storage.database import open_database
from tests.integration import loop
from tests.live_server import LiveServer, wait_until

PASSES = {"gate_loss_tolerance": 1.0, "gate_auc_tolerance": 1.0, "gate_min_votes": 2}


def test_every_acknowledged_vote_survives_the_death_of_the_server(live_server: LiveServer) -> None:
    people = [live_server.client("user", f"person-{n}") for n in range(4)]
    replies = [[loop.chat_once(person, f"Question {n}")["message_id"] for n in range(3)] for person in people]
    acknowledged: list[dict[str, tuple[bool, int]]] = [{} for _ in people]
    enough = threading.Semaphore(0)

    def keep_voting(index: int) -> None:
        step = 0
        with contextlib.suppress(httpx.TransportError):
            while True:
                for message_id in replies[index]:
                    label = step % 2 == 0
                    answer = loop.vote(people[index], message_id, label)
                    acknowledged[index][message_id] = (label, answer["revision"])
                    enough.release()
                step += 1

    for _ in range(3):
        threads = [threading.Thread(target=keep_voting, args=(index,)) for index in range(len(people))]
        for thread in threads:
            thread.start()
        for _ in range(40):
            assert enough.acquire(timeout=60)
        live_server.kill()
        for thread in threads:
            thread.join()
        live_server.start()
        for index, person in enumerate(people):
            for message_id, (label, revision) in acknowledged[index].items():
                vote = current_vote(person, message_id)
                # The vote that was under way when the server died may be there too, but nothing older.
                assert vote["revision"] in (revision, revision + 1)
                if vote["revision"] == revision:
                    assert vote["label"] is label
    assert_log_and_votes_agree(live_server)


def current_vote(person: httpx.Client, message_id: str) -> dict[str, object]:
    for chat in loop.checked(person.get("/api/v1/chats"))["items"]:
        for message in loop.checked(person.get(f"/api/v1/chats/{chat['id']}"))["messages"]:
            if message["id"] == message_id:
                vote: dict[str, object] = message["vote"]
                return vote
    raise AssertionError(f"{message_id} is gone")


def assert_log_and_votes_agree(server: LiveServer) -> None:
    from sqlmodel import select

    from storage.tables import Vote, VoteEvent

    database = open_database(server.settings)
    with database.read() as session:
        current = {(v.message_id, v.user_id): (v.revision, v.label) for v in session.exec(select(Vote))}
        logged: dict[tuple[str, str], list[tuple[int, bool | None]]] = {}
        for event in session.exec(select(VoteEvent).order_by(VoteEvent.id)):  # type: ignore[arg-type]
            logged.setdefault((event.message_id, event.user_id), []).append((event.revision, event.label))
        assert votes.latest_event_id(session) > 0
    database.close()
    assert {key: events[-1] for key, events in logged.items()} == current
    for events in logged.values():
        assert [revision for revision, _ in events] == list(range(1, len(events) + 1))


@pytest.fixture
def server_in_training(start_server: Callable[..., LiveServer]) -> tuple[LiveServer, str]:
    """A server whose run has taken at least one step and saved a checkpoint, with many more to go."""
    server = start_server(epochs=30, checkpoint_steps=2, lease_seconds=3, **PASSES)
    loop.chat_and_vote(server.client(), 18)
    run_id = loop.request_run(server.client())
    checkpoints = server.settings.data_dir / "runs" / run_id
    wait_until(
        lambda: any(checkpoints.glob("**/checkpoint-*/trainer_state.json")),
        120,
        lambda: loop.explain(server, run_id),
    )
    return server, run_id


def test_a_killed_trainer_is_replaced_and_the_run_resumes(server_in_training: tuple[LiveServer, str]) -> None:
    server, run_id = server_in_training
    for trainer in server.trainers():
        trainer.kill()
    client = server.client()
    assert loop.chat_once(client, "Still there?")["model_version"] == "v1"
    run = loop.wait_for_run(server, client, run_id)
    assert run["state"] == "succeeded", loop.explain(server, run_id)
    assert run["attempts"] == 2
    log = (server.settings.data_dir / "runs" / run_id / "train.log").read_text()
    assert "checkpoint" in log.lower(), log
    assert loop.chat_once(client, "And now?")["model_version"] == "v2"


def test_a_run_outlives_the_server_that_started_it(server_in_training: tuple[LiveServer, str]) -> None:
    server, run_id = server_in_training
    server.kill()
    assert server.trainers(), "the trainer must not die with the server"
    server.start()
    run = loop.wait_for_run(server, server.client(), run_id)
    assert run["state"] == "succeeded", loop.explain(server, run_id)
    assert run["attempts"] == 1
    assert loop.chat_once(server.client(), "And now?")["model_version"] == "v2"


def test_stopping_the_server_hands_the_run_to_the_next_one(
    server_in_training: tuple[LiveServer, str],
) -> None:
    server, run_id = server_in_training
    assert server.stop() == 0
    assert not server.trainers()
    server.start()
    run = loop.wait_for_run(server, server.client(), run_id)
    assert run["state"] == "succeeded", loop.explain(server, run_id)


def test_a_run_is_cancelled_in_mid_training(server_in_training: tuple[LiveServer, str]) -> None:
    server, run_id = server_in_training
    client = server.client()
    loop.checked(client.post(f"/api/v1/training-runs/{run_id}/cancel"))
    run = loop.wait_for_run(server, client, run_id, seconds=30)
    assert run["state"] == "cancelled"
    assert loop.deployed(client) == "v1"
    wait_until(lambda: not server.trainers(), 30)
