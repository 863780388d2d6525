"""Tokens per second, first token and gaps: one stream, 16 streams, 16 with a shared prefix.

Beside them, in the same run because only so the figures compare: transformers' `generate`, one request
after the other, and its server, against ours over HTTP. In this process replies have equal lengths (the
end token is turned off) and are read as the chat service reads them, a thread each; over HTTP a reply
may end earlier, and tokens are counted as the servers count them. What is under way goes to stderr.
"""

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from app.serving.backend import ServedVersion
from app.serving.local.backend import LocalBackend
from app.serving.reply import Sampling
from storage.settings import Settings
from storage.settings.serving import DEFAULT_MODEL
from tests.benchmarks.chat_servers import ChatServer, thumbloop_serve, transformers_server
from tests.benchmarks.report import arrival_figures, print_report, speed
from tests.support.adapters import build_adapter
from tests.support.live_server import at_once
from trainer.dataset.template import prompt_ids
from trainer.model.base_model import BaseModelSource, load_model, resolve

SYSTEM = "You are a helpful assistant."
LONG_SYSTEM = "You answer questions of visitors of a museum of natural history. " * 24  # 290 tokens
QUESTION = "Explain in a few sentences why the sky is blue, number {}."
BASE = ServedVersion("base", "v1", None)


def conversation(number: int, system: str = SYSTEM) -> list[dict[str, str]]:
    return [
        {"role": "system", "content": system},
        {"role": "user", "content": QUESTION.format(number)},
    ]


def one_by_one(model: Any, tokenizer: Any, tokens: int, count: int) -> dict[str, Any]:
    """What transformers' own `generate` does with requests in a row."""
    began, used = time.perf_counter(), time.process_time()
    for number in range(count):
        ids = torch.tensor([prompt_ids(tokenizer, conversation(number))])
        model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=tokens,
            min_new_tokens=tokens,
        )
    return speed(count * tokens, time.perf_counter() - began, time.process_time() - used)


def streams_at_once(
    backend: LocalBackend, count: int, tokens: int, system: str = SYSTEM, temperature: float = 0.7
) -> dict[str, Any]:
    sampling = Sampling(temperature=temperature, top_p=0.9, max_new_tokens=tokens, seed=1)
    streams = [backend.stream(BASE.id, conversation(n, system), sampling) for n in range(count)]
    arrivals: list[list[float]] = [[] for _ in streams]
    began, used = time.perf_counter(), time.process_time()

    def read(number: int) -> None:
        for _ in streams[number]:
            arrivals[number].append(time.perf_counter())

    at_once(count, read)
    elapsed, used = time.perf_counter() - began, time.process_time() - used
    tokens = sum(len(stream.end.token_ids) for stream in streams)
    firsts = [float(stream.end.timings["first_token_s"]) for stream in streams]
    return {"streams": count, **speed(tokens, elapsed, used), **arrival_figures(firsts, arrivals)}


def slot_seconds(backend: LocalBackend, folder: Path) -> float:
    began = time.perf_counter()
    backend.load(ServedVersion("new", "v2", folder))
    elapsed = time.perf_counter() - began
    backend.unload("new")
    return round(elapsed, 2)


def in_this_process(
    settings: Settings, source: BaseModelSource, tokens: int, folder: Path
) -> tuple[dict[str, Any], float]:
    """The rounds by name, and the seconds until a slot with an adapter is ready."""
    tell("one by one with generate")
    model, tokenizer = load_model(source)
    one_by_one(model, tokenizer, 8, 1)
    rounds = {"generate_one_by_one": one_by_one(model, tokenizer, tokens, 4)}
    backend = LocalBackend(settings, source, end_ids=frozenset())
    backend.load(BASE)
    streams_at_once(backend, 2, 8)
    for name, count, system, temperature in (
        ("batched_1", 1, SYSTEM, 0.7),
        ("batched_16", 16, SYSTEM, 0.7),
        ("batched_16_greedy", 16, SYSTEM, 0.0),
        ("batched_16_shared_prefix", 16, LONG_SYSTEM, 0.7),
        ("batched_16_shared_prefix_again", 16, LONG_SYSTEM, 0.7),
    ):
        tell(name)
        rounds[name] = streams_at_once(backend, count, tokens, system, temperature)
    tell("a new slot")
    ready = slot_seconds(backend, build_adapter(source.folder, folder / "adapter", size=0.01))
    backend.close()
    tell("the plain engine")
    plain = LocalBackend(settings.model_copy(update={"batching": "off"}), source, end_ids=frozenset())
    plain.load(BASE)
    streams_at_once(plain, 2, 8)
    rounds["plain_1"] = streams_at_once(plain, 1, tokens)
    rounds["plain_16"] = streams_at_once(plain, 16, tokens)
    plain.close()
    return rounds, ready


def over_http(server: ChatServer, name: str, tokens: int) -> dict[str, Any]:
    server.at_once([conversation(99)], 8)
    rounds = {}
    for case, count, system in (
        ("1", 1, SYSTEM),
        ("16", 16, SYSTEM),
        ("16_shared_prefix", 16, LONG_SYSTEM),
    ):
        tell(f"{name}: {case}")
        rounds[f"{name}_{case}"] = server.at_once([conversation(n, system) for n in range(count)], tokens)
    return rounds


def tell(step: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {step}", file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default=DEFAULT_MODEL)
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--data-dir", type=Path, help="where the default model is converted already")
    parser.add_argument("--servers", choices=("all", "none"), default="all", help="also measure over HTTP")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = Settings(data_dir=given.data_dir or folder, model=given.model, precision=given.precision)
        source = resolve(settings)
        rounds, ready = in_this_process(settings, source, given.tokens, folder)
        if given.servers == "all":
            dtype = str(source.dtype).removeprefix("torch.")
            with thumbloop_serve(source.folder, source.precision) as ours:
                rounds |= over_http(ours, "thumbloop_serve", given.tokens)
            with transformers_server(source.folder, dtype, folder) as theirs:
                rounds |= over_http(theirs, "transformers_serve", given.tokens)
            # The size of its cache is stated, as ours is: else it takes most of the memory there is.
            pages = ("--cb-num-blocks", str(settings.serving_cache_tokens // 32), "--cb-block-size", "32")
            with transformers_server(source.folder, dtype, folder, "--continuous-batching", *pages) as theirs:
                rounds |= over_http(theirs, "transformers_serve_batching", given.tokens)
    alone = rounds["generate_one_by_one"]
    for one in rounds.values():
        for unit in ("tokens_per_s", "tokens_per_cpu_s"):
            one[f"times_{unit}"] = round(one[unit] / alone[unit], 2)
    report = {"model": given.model, "dtype": str(source.dtype), "threads": torch.get_num_threads()}
    print_report("serving", report | {"rounds": rounds, "slot_ready_s": ready})


if __name__ == "__main__":
    main()
