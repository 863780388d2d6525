"""A backend whose server is a stand-in for vLLM on loopback: what the tests of external replies stand on."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from app.serving.backend import ServedVersion
from app.serving.openai.backend import ExternalBackend
from app.serving.openai.breaker import Breaker
from app.serving.reply import ReplyEnd, Sampling
from storage.errors import ThumbloopError
from storage.settings import Settings
from tests.support.recorded_vllm import KEY, MODEL, WORDS, Recorded
from trainer.dataset.template import prompt_ids
from trainer.model.base_model import resolve

HELLO = [{"role": "user", "content": "Tell me about the river, please. 🌊"}]
SAMPLING = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=24, seed=7)
BASE = ServedVersion("base", "v1", None)
WHOLE = "".join([f"{MODEL}:", *WORDS])

Tokenise = Callable[[Any], list[int]]
MakeBackend = Callable[..., ExternalBackend]


def tokenise_with(model: Path) -> Tokenise:
    """The ids of a conversation or a text."""
    tokenizer = AutoTokenizer.from_pretrained(model)
    return lambda given: prompt_ids(tokenizer, given) if isinstance(given, list) else tokenizer.encode(given)


@contextmanager
def backends(folder: Path, model: Path) -> Iterator[MakeBackend]:
    """Makes backends of servers; without `local` the model is not on this machine."""
    made = []

    def make(
        server: Recorded, *, local: bool = True, breaker: Breaker | None = None, **changes: object
    ) -> ExternalBackend:
        given = {"openai_base_url": server.url, "openai_api_key": KEY, "openai_model": MODEL, **changes}
        settings = Settings(data_dir=folder, model=str(model), backend="openai", **given)  # type: ignore[arg-type]
        made.append(ExternalBackend(settings, resolve(settings) if local else None, breaker))
        made[-1].load(BASE)
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def reply(backend: ExternalBackend, sampling: Sampling = SAMPLING) -> ReplyEnd:
    return backend.stream(BASE.id, HELLO, sampling).end


def failure(backend: ExternalBackend, sampling: Sampling = SAMPLING) -> ThumbloopError:
    with pytest.raises(ThumbloopError) as caught:
        reply(backend, sampling)
    return caught.value
