"""Samples a reply to each of many prompts with a model, as the server would."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from trainer.generation.batching_engine import ContinuousEngine, Unsuitable
from trainer.generation.engine import Engine, Update
from trainer.generation.plain_engine import PlainEngine
from trainer.generation.sampling import Sampler
from trainer.generation.trial import try_model

# More replies at once share the reading of the weights. More than this gained nothing for the default model.
AT_ONCE = 32
SEEDS = 1_000_000  # more than there are places


@dataclass(frozen=True)
class SampledReply:
    """A reply's tokens, with the end token if it has one. `finished` means that the model ended it."""

    token_ids: list[int]
    finished: bool


def generate_replies(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    end_ids: frozenset[int],
    temperature: float,
    top_p: float,
    max_new_tokens: int,
    seed: int,
    first: int = 0,
    progress: Callable[[int], None] = lambda _done: None,
    at_once: int = AT_ONCE,
) -> list[SampledReply]:
    """A reply to each prompt, in the order of the prompts.

    The draws of a reply depend on the seed and its place alone, and not on the other replies; `first` is the
    place of the first prompt. `progress`
    receives the number of replies that have ended, and may raise to stop. Raises RuntimeError if the model
    fails.
    """
    if not prompts:
        return []
    news: SimpleQueue[list[Update]] = SimpleQueue()
    longest = max(map(len, prompts)) + max_new_tokens
    engine: Engine
    try:
        engine = ContinuousEngine(
            model,
            try_model(model, prompts[0]),
            end_ids=end_ids,
            at_once=at_once,
            cache_tokens=at_once * longest,
            sink=news.put,
        )
    except Unsuitable:
        engine = PlainEngine(model, end_ids, 1, news.put)
    found: dict[int, SampledReply] = {}
    waiting = list(range(len(prompts)))
    try:
        while len(found) < len(prompts):
            while waiting and len(prompts) - len(found) - len(waiting) < at_once:
                place = waiting[0]
                sampler = Sampler(temperature, top_p, seed * SEEDS + first + place)
                if not engine.submit(str(place), prompts[place], max_new_tokens, sampler):
                    break
                del waiting[0]
            for update in _next(news, engine):
                if not update.last:
                    continue
                if update.error is not None:
                    raise RuntimeError(update.error)
                engine.drop(update.request_id, over=True)
                tokens = list(update.tokens)
                found[int(update.request_id)] = SampledReply(tokens, finished=tokens[-1] in end_ids)
                progress(len(found))
    finally:
        engine.stop()
    return [found[place] for place in range(len(prompts))]


def _next(news: SimpleQueue[list[Update]], engine: Engine) -> list[Update]:
    """The next updates; raises RuntimeError once the engine has died."""
    while True:
        try:
            return news.get(timeout=1.0)
        except Empty:
            if engine.failure is not None:
                raise RuntimeError(engine.failure) from None
