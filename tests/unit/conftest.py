"""Property tests: the same examples on every machine, and no limit on their time. External servers."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest

if TYPE_CHECKING:  # with torch in tow, which most unit tests do without
    from app.serving.openai.backend import ExternalBackend
    from tests.support.external_backend import MakeBackend, Tokenise
    from tests.support.recorded_vllm import Recorded

hypothesis.settings.register_profile("repeatable", deadline=None, derandomize=True)
hypothesis.settings.load_profile("repeatable")


@pytest.fixture(scope="module")
def tokenise(tiny_model: Path) -> "Tokenise":
    """The tiny model's ids of a conversation or a text."""
    from tests.support.external_backend import tokenise_with

    return tokenise_with(tiny_model)


@pytest.fixture
def vllm_server(tokenise: "Tokenise") -> Iterator["Recorded"]:
    from tests.support.recorded_vllm import recorded_vllm

    with recorded_vllm(tokenise) as recorded:
        yield recorded


@pytest.fixture
def make_external(tmp_path: Path, tiny_model: Path) -> Iterator["MakeBackend"]:
    """make_external(server, local=False, ...) takes settings; without `local` the model is not here."""
    from tests.support.external_backend import backends

    with backends(tmp_path, tiny_model) as make:
        yield make


@pytest.fixture
def external(vllm_server: "Recorded", make_external: "MakeBackend") -> "ExternalBackend":
    """A backend that has tried the base model, and its server has forgotten that."""
    backend = make_external(vllm_server)
    vllm_server.asked.clear()
    return backend
