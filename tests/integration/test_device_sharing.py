"""One device for serving and training: a training unloads the models, and they are loaded again after it."""

import gc
import weakref
from collections.abc import Callable, Iterator

import httpx
import psutil
import pytest

from app.serving.backend import ServedVersion
from app.serving.device_sharing import DeviceSharing
from app.serving.reply import Sampling
from storage.errors import BadSetting, Busy
from storage.registry import training_runs
from storage.registry.device_lock import DeviceLock
from storage.settings import Settings, load_settings
from tests.support import http_loop
from tests.support.chat_env import LONG, SHORT, ChatEnv, MakeEnv, ServingEnv
from tests.support.endless_model import CONTEXT
from tests.support.live_server import LiveServer, StartServer, answers, get, wait_until
from tests.support.training_env import LENIENT

PASSES = {**LENIENT, "gate_min_votes": 2}
HELLO = [{"role": "user", "content": "Hello"}]


def phase_of(server: LiveServer, run_id: str) -> str | None:
    progress = http_loop.checked(server.client().get(f"/api/v1/training-runs/{run_id}"))["progress"] or {}
    return "training" if "loss" in progress else progress.get("phase")


def test_an_exclusive_training_has_the_machine_to_itself_and_its_version_answers_afterwards(
    start_server: StartServer,
) -> None:
    server = start_server(device_mode="exclusive", epochs=30, **PASSES)
    client = server.client()
    http_loop.import_votes(client, 18)
    run_id = http_loop.request_run(client)
    refused = wait_until(lambda: refusal(client), 120, lambda: http_loop.explain(server, run_id))
    assert refused.json()["error"]["code"] == "training"
    assert "being trained" in refused.json()["error"]["message"]
    assert 5 <= int(refused.headers["Retry-After"]) <= 300
    run = http_loop.wait_for_run(server, client, run_id)
    assert run["state"] == "succeeded", http_loop.explain(server, run_id)
    wait_until(lambda: answers(f"{server.url}/readyz"), 60, lambda: http_loop.explain(server, run_id))
    assert http_loop.chat_once(client, "And now?")["model_version"] == "v2"
    log = server.log.read_text()
    assert log.index("A training wants the device") < log.index("The training is over: replies go on")


def refusal(client: httpx.Client) -> httpx.Response | None:
    chat_id = http_loop.checked(client.post("/api/v1/chats", json={}))["id"]
    answer = client.post(f"/api/v1/chats/{chat_id}/messages?stream=false", json={"content": "Still there?"})
    if answer.status_code == 503:
        assert http_loop.checked(client.get(f"/api/v1/chats/{chat_id}"))["messages"] == [], (
            "a refusal leaves no trace"
        )
        return answer
    assert answer.status_code == 200, answer.text
    return None


def test_whatever_needs_a_model_says_why_it_has_none_until_the_training_is_over(
    start_server: StartServer,
) -> None:
    """The training takes longer than the test, and outlives the server."""
    often = {"checkpoint_steps": 2, "lease_seconds": 15, "max_attempts": 1}
    server = start_server(device_mode="exclusive", epochs=4000, **often, **PASSES)
    client = server.client()
    http_loop.import_votes(client, 18)
    run_id = http_loop.request_run(client)
    wait_until(lambda: phase_of(server, run_id) == "training", 120, lambda: http_loop.explain(server, run_id))
    ready = get(f"{server.url}/readyz")
    assert (ready.status_code, ready.json()["error"]["code"]) == (503, "not_ready")
    assert "being trained" in ready.json()["error"]["message"]
    for model in ("deployed", "v1"):
        answer = client.post("/v1/chat/completions", json={"model": model, "messages": HELLO})
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "training")
        assert int(answer.headers["Retry-After"]) >= 5
    deployed = client.post("/api/v1/model-versions/v1/deploy", json={})
    assert (deployed.status_code, deployed.json()["error"]["code"]) == (503, "training")
    assert "thumbloop_slots 0.0" in client.get("/metrics").text

    server.kill()
    server.start(wait=False)
    wait_until(lambda: answers(f"{server.url}/healthz"), 60, server.log.read_text)
    assert not answers(f"{server.url}/readyz")
    assert phase_of(server, run_id) == "training"
    for trainer in server.trainers():
        trainer.kill()
    wait_until(lambda: answers(f"{server.url}/readyz"), 60, lambda: http_loop.explain(server, run_id))
    assert http_loop.chat_once(server.client(), "Back?")["model_version"] == "v1"
    assert http_loop.wait_for_run(server, server.client(), run_id)["state"] == "failed"
    assert http_loop.chat_once(server.client(), "Still?")["model_version"] == "v1"


# Without a trainer, in this process


@pytest.fixture
def env(make_env: MakeEnv) -> ChatEnv:
    """One whose LONG replies are under way for as long as a test looks."""
    return make_env(serving_cache_tokens=CONTEXT)


@pytest.fixture
def share_device(env: ChatEnv, settings: Settings) -> Iterator[Callable[..., DeviceSharing]]:
    made: list[DeviceSharing] = []

    def make(patience: float, lease_seconds: float = 600) -> DeviceSharing:
        device = DeviceLock(settings.data_dir)
        sharing = DeviceSharing(
            *(env.database, device, env.deployments, lambda: env.backend.release(patience)),
            lease_seconds=lease_seconds,
        )
        made.append(sharing)
        sharing.start()
        return sharing

    yield make
    for sharing in made:
        sharing.stop()


@pytest.fixture
def training(settings: Settings, env: ChatEnv) -> Iterator[DeviceLock]:
    """A run that a trainer has, and this process's hold on the device in that trainer's place."""
    with env.database.write() as session:
        run_id = training_runs.request_run(session, trigger="admin").id
        training_runs.claim_run(session, run_id, owner="it", lease_seconds=600, max_attempts=1)
    device = DeviceLock(settings.data_dir)
    yield device
    device.close()


def is_refused(env: ChatEnv) -> bool:
    try:
        env.deployments.current()
    except Busy as busy:
        return busy.code == "training"
    return False


def test_replies_under_way_end_before_the_models_go(
    env: ChatEnv, share_device: Callable[..., DeviceSharing], training: DeviceLock
) -> None:
    share_device(patience=600)
    base, stream = env.deployments.stream(HELLO, LONG)
    deltas = iter(stream)
    next(deltas)
    assert not training.claim()
    wait_until(lambda: is_refused(env))
    assert not training.claim(), "a reply is under way"
    assert next(deltas), "it goes on"
    stream.cancel()
    wait_until(training.claim)
    assert stream.end.finish_reason == "cancelled"
    assert env.backend.loaded() == []
    assert base.name == "v1"
    training.close()
    wait_until(lambda: not is_refused(env))
    assert env.deployments.stream(HELLO, SHORT)[1].end.content


def test_a_reply_that_takes_too_long_is_cut_off_and_keeps_its_text(
    env: ChatEnv, share_device: Callable[..., DeviceSharing], training: DeviceLock
) -> None:
    share_device(patience=0.2)
    _, running = env.deployments.stream(HELLO, LONG)
    _, late = env.deployments.stream(HELLO, LONG)  # has its place, and begins when the models are gone
    next(iter(running))
    wait_until(training.claim)
    assert (running.end.finish_reason, bool(running.end.content)) == ("cancelled", True)
    with pytest.raises(Busy, match="unloaded before this reply began"):
        list(late)


def test_a_trainer_that_is_silent_for_too_long_does_not_keep_everybody_waiting(
    env: ChatEnv, share_device: Callable[..., DeviceSharing], training: DeviceLock
) -> None:
    share_device(patience=600, lease_seconds=0.5)
    wait_until(training.claim)
    wait_until(lambda: is_refused(env))
    with env.database.write() as session:
        run = training_runs.active_run(session)
        assert run is not None
        training_runs.expire_lease(session, run.id, "it")
    wait_until(lambda: not is_refused(env))
    assert training.claim(), "it has the device still"
    assert env.deployments.stream(HELLO, SHORT)[1].end.content


def test_a_claim_without_a_run_changes_nothing(
    env: ChatEnv, share_device: Callable[..., DeviceSharing], settings: Settings
) -> None:
    sharing = share_device(patience=0)
    stranger = DeviceLock(settings.data_dir)
    assert not stranger.claim()
    sharing.check()
    assert not is_refused(env)
    stranger.close()


def test_released_models_are_gone_from_memory_and_come_back_the_same(serving: ServingEnv) -> None:
    backend = serving.backend
    base = ServedVersion("base", "v1", None)
    backend.load(base)
    greedy = Sampling(temperature=0, top_p=1, max_new_tokens=12)
    before = backend.stream(base.id, HELLO, greedy).end
    gc.collect()
    gc.freeze()  # as a server does once it has started
    gone = [weakref.ref(backend.base), weakref.ref(backend.slots[base.id].model)]
    backend.release(0)
    assert [model() for model in gone] == [None, None]
    backend.load(base)
    after = backend.stream(base.id, HELLO, greedy).end
    assert after.token_ids == before.token_ids


def test_another_servers_models_cannot_be_unloaded() -> None:
    with pytest.raises(BadSetting, match="THUMBLOOP_DEVICE_MODE=exclusive"):
        load_settings(
            device_mode="exclusive", backend="openai", openai_base_url="http://gpu:8000/v1", openai_model="m"
        )


# Sharing


def test_a_training_without_memory_fails_and_the_server_goes_on(
    start_server: StartServer,
) -> None:
    server = start_server(epochs=100, max_attempts=1, **PASSES)
    client = server.client()
    http_loop.import_votes(client, 18)
    for _ in range(5):  # on a busy machine a trainer may have all it needs before it is limited
        kept = http_loop.deployed(client)
        run_id = begin_without_memory(server, client)
        assert http_loop.chat_once(client, "Is there room for me?")["model_version"] == kept
        run = http_loop.wait_for_run(server, client, run_id, 100)
        if run["state"] == "failed":
            break
    assert run["state"] == "failed", http_loop.explain(server, run_id)
    assert http_loop.chat_once(client, "And now?")["model_version"] == kept


def begin_without_memory(server: LiveServer, client: httpx.Client) -> str:
    """A run whose trainer gets no more than it has before it loads a model."""
    run_id = http_loop.request_run(client, force=True)
    wait_until(lambda: state_of(client, run_id) == "running", 120, lambda: http_loop.explain(server, run_id))
    (trainer,) = server.trainers()
    taken = trainer.memory_info().vms
    trainer.rlimit(psutil.RLIMIT_AS, (taken, taken))
    return run_id


def state_of(client: httpx.Client, run_id: str) -> str:
    return str(http_loop.checked(client.get(f"/api/v1/training-runs/{run_id}"))["state"])
