"""The batching engine's guards: each trap of the library's manager, on a tiny real model."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from random import Random
from typing import Any

import pytest
import torch
from transformers import AttentionInterface, LlamaConfig, LlamaForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from app.serving.backend import ServedVersion
from app.serving.local.backend import LocalBackend
from app.serving.local.slot import build_model
from app.serving.reply import Sampling
from app.serving.scheduler import Occupancy
from storage.errors import Busy, ThumbloopError
from storage.settings import Settings
from tests.support.endless_model import CONTEXT, FATAL
from tests.support.live_server import wait_until
from trainer.dataset.template import prompt_ids
from trainer.generation import paged_attention
from trainer.generation.batching_engine import PAGE_TOKENS, ContinuousEngine, Unsuitable
from trainer.generation.engine import Update
from trainer.generation.plain_engine import PlainEngine
from trainer.generation.sampling import Sampler
from trainer.generation.trial import Trial, try_model
from trainer.model.base_model import load_model, resolve

BASE = ServedVersion("base", "v1", None)
GREEDY = Sampling(temperature=0, top_p=1, max_new_tokens=24)
ENDLESS = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=CONTEXT, seed=7)


def hello(number: int = 0) -> list[dict[str, str]]:
    return [{"role": "user", "content": f"Tell me about river number {number}. " * (1 + number % 5)}]


def engine_of(backend: LocalBackend, version: ServedVersion = BASE) -> Any:
    return backend.slots[version.id].engine


def held(engine: Any) -> tuple[int, int, int]:
    """What the manager still holds: requests, block tables, outputs that nobody took."""
    processor = engine.manager.batch_processor
    requests = len(processor.scheduler.active_requests) + len(processor.scheduler.waiting_requests)
    tables = sum(len(allocator.block_table) for allocator in processor.cache.cache_allocators.values())
    return requests, tables, engine.manager.output_router.output_queue.qsize()


def is_empty(engine: Any) -> bool:
    return held(engine) == (0, 0, 0) and not engine.reserved


def tokens(backend: LocalBackend, number: int = 0, version: ServedVersion = BASE) -> list[int]:
    return backend.stream(version.id, hello(number), GREEDY).end.token_ids


def test_a_version_answers_in_company_as_alone_whoever_shares_its_prefix(
    make_backend: Callable[..., LocalBackend], tuned: ServedVersion
) -> None:
    backend, plain = make_backend(), make_backend(batching="off")
    for one in (backend, plain):
        one.load(tuned)
    assert isinstance(engine_of(backend), ContinuousEngine)
    assert isinstance(engine_of(plain), PlainEngine)
    expected = {(v.id, n): tokens(plain, n, v) for v in (BASE, tuned) for n in range(8)}
    assert expected["base", 1] != expected["tuned", 1]
    streams = {(v.id, n): backend.stream(v.id, hello(n), GREEDY) for n in range(8) for v in (BASE, tuned)}
    for stream in streams.values():
        stream.start()
    assert {key: stream.end.token_ids for key, stream in streams.items()} == expected
    # Again, now that every prefix is in the caches: one shared between versions would show.
    assert {(v.id, n): tokens(backend, n, v) for v in (BASE, tuned) for n in range(8)} == expected


def test_each_request_draws_by_its_own_settings(make_backend: Callable[..., LocalBackend]) -> None:
    backend, plain = make_backend(), make_backend(batching="off")
    random = Random(1)
    asked = [
        Sampling(random.choice([0, 0.5, 1, 2]), random.choice([0.3, 0.9, 1]), 1 + n * 3, seed=n - 4)
        for n in range(12)
    ]
    streams = [backend.stream(BASE.id, hello(n), one) for n, one in enumerate(asked)]
    for stream in streams:
        stream.start()
    alone = [plain.stream(BASE.id, hello(n), one).end.token_ids for n, one in enumerate(asked)]
    assert [stream.end.token_ids for stream in streams] == alone


def test_a_dead_worker_is_replaced_and_its_streams_end_with_an_error(backend: LocalBackend) -> None:
    right, dead = tokens(backend), engine_of(backend)
    bystander = backend.stream(BASE.id, hello(), ENDLESS)
    next(iter(bystander))
    with pytest.raises(ThumbloopError, match="ask for it again") as failure:
        backend.stream(BASE.id, [{"role": "user", "content": FATAL}], GREEDY).end  # noqa: B018
    assert failure.value.code == "generation_failed"
    with pytest.raises(ThumbloopError):
        list(bystander)
    assert tokens(backend) == right
    assert engine_of(backend) is not dead
    assert not dead.manager.is_running()


def test_a_worker_that_dies_in_silence_is_noticed(backend: LocalBackend) -> None:
    right, dead = tokens(backend), engine_of(backend)
    stream = backend.stream(BASE.id, hello(), ENDLESS)
    next(iter(stream))
    dead.manager.output_router.sink = lambda _updates: None  # so that nothing tells of the end
    dead.manager.stop(hard_stop=True, block=False)
    with pytest.raises(ThumbloopError, match="ask for it again"):
        list(stream)
    assert tokens(backend) == right


def test_a_cancelled_reply_leaves_nothing_in_the_manager(backend: LocalBackend) -> None:
    stream = backend.stream(BASE.id, hello(), ENDLESS)
    next(iter(stream))
    running = engine_of(backend).manager.batch_processor.scheduler.active_requests
    (cancelled,) = running
    stream.cancel()
    assert stream.end.finish_reason == "cancelled"
    tokens(backend)
    assert cancelled not in running, "it went on while another reply was written"
    wait_until(lambda: is_empty(engine_of(backend)), 60, lambda: str(held(engine_of(backend))))


def test_the_cache_has_the_stated_size_and_long_replies_share_it(
    make_backend: Callable[..., LocalBackend],
) -> None:
    small = make_backend(serving_cache_tokens=1024, max_concurrent_replies=4)
    cache = engine_of(small).manager.batch_processor.cache
    assert cache.num_blocks * PAGE_TOKENS == 1024
    long = Sampling(temperature=0, top_p=1, max_new_tokens=1024)
    plain = make_backend(batching="off", serving_cache_tokens=1024)
    alone = [plain.stream(BASE.id, hello(n), long).end.token_ids for n in range(3)]
    streams = [small.stream(BASE.id, hello(n), long) for n in range(3)]  # three times what the cache holds
    for stream in streams:
        stream.start()
    assert [stream.end.token_ids for stream in streams] == alone
    assert all(len(ids) > 700 for ids in alone)


class Holding:
    """An engine whose worker is held up at a token, until `release`."""

    def __init__(self, model_folder: Path, tmp_path: Path, at_once: int) -> None:
        settings = Settings(data_dir=tmp_path, model=str(model_folder), precision="fp32")
        base, tokenizer = load_model(resolve(settings))
        self.prompt = prompt_ids(tokenizer, hello())
        self.release = threading.Event()
        self.news: SimpleQueue[list[Update]] = SimpleQueue()
        model = build_model(base, BASE)
        self.engine = ContinuousEngine(
            model,
            try_model(model, self.prompt),
            end_ids=frozenset(),
            at_once=at_once,
            cache_tokens=64 * 1024,
            sink=lambda updates: (self.news.put(updates), self.release.wait()),
        )

    def submit(self, request_id: str) -> bool:
        return self.engine.submit(request_id, self.prompt, 1000, Sampler(0, 1))


def test_a_full_queue_turns_away_at_once_and_never_blocks(model_folder: Path, tmp_path: Path) -> None:
    held_up = Holding(model_folder, tmp_path, at_once=2)
    try:
        assert held_up.submit("first")
        held_up.news.get(timeout=30)  # the worker now waits in the sink and takes nothing from its queue
        began = time.monotonic()
        taken = [held_up.submit(f"more {n}") for n in range(6)]
        assert time.monotonic() - began < 5  # the library would wait ten seconds, then raise
        assert taken == [True] * 4 + [False] * 2
    finally:
        held_up.release.set()
        held_up.engine.stop()
    assert held_up.engine.failure is not None
    assert not held_up.submit("late")


def test_a_model_that_cannot_be_batched_gets_the_plain_engine_and_a_log_line(
    make_backend: Callable[..., LocalBackend],
    model_folder: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings = Settings(data_dir=tmp_path, model=str(model_folder), precision="fp32")
    base, tokenizer = load_model(resolve(settings))
    model = build_model(base, BASE)
    trial = try_model(model, prompt_ids(tokenizer, hello()))
    other = [(token + 1) % 300 for token in trial.tokens]
    lying = Trial(trial.prompt, other, torch.zeros_like(trial.logits).index_fill_(1, torch.tensor(other), 9))
    with pytest.raises(Unsuitable, match="continued a trial with token"):
        ContinuousEngine(
            model, lying, end_ids=frozenset(), at_once=2, cache_tokens=1024, sink=lambda _updates: None
        )
    assert model.config._attn_implementation == base.config._attn_implementation
    backend = make_backend()
    AttentionInterface.register("odd", sdpa_attention_forward)
    backend.base.set_attn_implementation("odd")  # the library batches its own kinds of attention only
    odd = ServedVersion("odd", "v2", None)
    backend.load(odd)
    assert tokens(backend, version=odd) == tokens(backend)
    assert isinstance(engine_of(backend, odd), PlainEngine)
    assert "v2 replies without batching" in caplog.text
    assert "Implementation odd is not supported" in caplog.text


def test_own_attention_is_that_of_the_library() -> None:
    """Over prompts in pieces, shared prefixes and decoding, for heads that share keys in threes.

    The weights are large, so that which token comes next depends on what attention finds.
    """
    config = LlamaConfig(
        vocab_size=50, hidden_size=48, intermediate_size=32, num_hidden_layers=4,
        num_attention_heads=6, num_key_value_heads=2, head_dim=8, initializer_range=0.2,
    )  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = LlamaForCausalLM(config).eval()
        prompts = [torch.randint(50, (n,)).tolist() for n in (1, 3, 40, 300, 320, 500, 700)]
    trial = try_model(model, prompts[0])
    results = []
    for own in (True, False):
        news: SimpleQueue[list[Update]] = SimpleQueue()
        suits = paged_attention.suits(model)
        model.set_attn_implementation("sdpa" if own else "eager")
        assert suits
        engine = ContinuousEngine(
            model, trial, end_ids=frozenset(), at_once=7, cache_tokens=8192, sink=news.put
        )
        assert (model.config._attn_implementation == paged_attention.NAME) == own
        for number, prompt in enumerate(prompts):
            assert engine.submit(str(number), prompt, 20, Sampler(0, 1))
        done: dict[str, list[int]] = {}
        while len(done) < len(prompts):
            done |= {one.request_id: list(one.tokens) for one in news.get(timeout=30) if one.last}
        engine.stop()
        model.set_attn_implementation("sdpa")
        results.append(done)
    assert results[0] == results[1]


def test_people_take_turns(make_backend: Callable[..., LocalBackend]) -> None:
    backend = make_backend(max_concurrent_replies=1)
    first = backend.stream(BASE.id, hello(), ENDLESS, person="ada")
    next(iter(first))
    asked = [backend.stream(BASE.id, hello(), GREEDY, person="ada") for _ in range(4)]
    running = backend.stream(BASE.id, hello(), GREEDY, person="ben")
    streams = [("ada", stream) for stream in asked] + [("ben", running)]
    for _, stream in streams:
        stream.start()
    first.cancel()
    queued = sorted((stream.end.timings["queued_s"], name) for name, stream in streams)
    order = [name for _, name in queued]
    assert order.index("ben") <= 1


def test_a_thousand_clients_hang_up_at_random_moments(make_backend: Callable[..., LocalBackend]) -> None:
    backend = make_backend(max_concurrent_replies=8, max_waiting_replies=32)
    right, engine = tokens(backend), engine_of(backend)
    threads = threading.active_count()

    def come_and_go(number: int) -> str:
        random = Random(number)
        while True:
            try:
                stream = backend.stream(BASE.id, hello(number), ENDLESS, person=str(number % 7))
                break
            except Busy:
                time.sleep(0.01)
        moment = random.randrange(12)  # 0: before it began; 1: at once; else after so many deltas
        if moment == 1:
            stream.start()
        for count, _ in enumerate(stream if moment > 1 else (), 2):
            if count >= moment:
                break
        stream.cancel()
        return stream.end.finish_reason

    with ThreadPoolExecutor(48) as pool:
        reasons = list(pool.map(come_and_go, range(1000)))
    assert set(reasons) == {"cancelled"}
    assert tokens(backend) == right
    assert engine_of(backend) is engine
    wait_until(lambda: is_empty(engine), 60, lambda: str(held(engine)))
    assert backend.occupancy() == Occupancy(running=0, waiting=0, admitted=0)
    assert threading.active_count() <= threads
