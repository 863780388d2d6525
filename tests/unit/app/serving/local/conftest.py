"""Local backends on a tiny real model that goes on until it is stopped."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from app.serving.backend import ServedVersion
from app.serving.local.backend import LocalBackend
from storage.settings import Settings
from tests.support.adapters import build_adapter
from tests.support.endless_model import CONTEXT, build_endless_model
from trainer.model.base_model import resolve


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_endless_model(tmp_path_factory.mktemp("serving") / "model")


@pytest.fixture(scope="session")
def tuned(model_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> ServedVersion:
    adapter = build_adapter(model_folder, tmp_path_factory.mktemp("serving") / "v2")
    return ServedVersion("tuned", "v2", adapter)


@pytest.fixture
def make_backend(model_folder: Path, tmp_path: Path) -> Iterator[Callable[..., LocalBackend]]:
    """Makes backends that have loaded the version `base`."""
    backends = []

    def make(folder: Path = model_folder, **changes: Any) -> LocalBackend:
        values = {"precision": "fp32", "serving_cache_tokens": CONTEXT, **changes}
        settings = Settings(data_dir=tmp_path, model=str(folder), **values)
        backends.append(LocalBackend(settings, resolve(settings)))
        backends[-1].load(ServedVersion("base", "v1", None))
        return backends[-1]

    yield make
    for backend in backends:
        backend.close()


@pytest.fixture
def backend(make_backend: Callable[..., LocalBackend]) -> LocalBackend:
    return make_backend()
