"""Adapters that must not be served, from the published folder on: refused by name, and all else goes on."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from storage.errors import ArtifactRefused
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts
from tests.support.adapters import build_adapter
from tests.support.chat_env import ServingEnv, alias, reply

WEIGHTS = "adapter_model.safetensors"
Damage = Callable[[Path], object]


def change_weights(change: Callable[[torch.Tensor], torch.Tensor]) -> Damage:
    def damage(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        save_file({name: change(tensor) for name, tensor in tensors.items()}, folder / WEIGHTS)

    return damage


class Boom:
    """Loading it with pickle would be noticed."""

    def __reduce__(self) -> tuple[object, ...]:
        return pytest.fail, ("a pickle was loaded",)


def add_pickle(folder: Path) -> None:
    torch.save(Boom(), folder / "adapter_model.bin")


# What a training run could have published like that: the hashes agree. More are in the backend's unit tests.
PUBLISHED: dict[str, tuple[Damage, str]] = {
    "NaN": (change_weights(lambda t: torch.full_like(t, float("nan"))), "not finite"),
}
# What became of a good one afterwards.
LATER: dict[str, tuple[Damage, str]] = {
    "an extra pickle": (add_pickle, "adapter_model.bin is not a file that an adapter may have"),
    "a wrong hash": (change_weights(lambda t: t + 1), f"{WEIGHTS} has changed since it was published"),
}


def test_each_is_refused_by_name_and_the_deployed_version_keeps_serving(serving: ServingEnv) -> None:
    serving.publish()
    serving.deployments.start()
    serving.deployments.deploy("v2", by="ada", why="good")
    right, loaded = reply(serving.deployments), set(serving.backend.loaded())
    for kind, (damage, why) in (PUBLISHED | LATER).items():
        version = serving.publish(change=damage) if kind in PUBLISHED else serving.publish()
        if kind in LATER:
            assert version.path is not None
            damage(serving.artifacts.folder(version.path))
        for serve in (
            lambda name: serving.deployments.deploy(name, by="ada", why="hope"),
            lambda name: serving.deployments.canary.start(name, share=0.5, by="ada", why="hope"),
        ):
            with pytest.raises(ArtifactRefused, match=why) as refusal:
                serve(version.name)
            assert version.path in str(refusal.value), kind
        assert (alias(serving.database), reply(serving.deployments), set(serving.backend.loaded())) == (
            "v2",
            right,
            loaded,
        )
    with serving.database.read() as session:
        assert model_versions.open_canary(session) is None


def test_a_loaded_version_whose_files_were_damaged_is_not_deployed(serving: ServingEnv) -> None:
    """It would reply until the next start, and never again."""
    serving.deployments.start()
    damaged = serving.publish()
    serving.deployments.deploy(damaged.name, by="ada", why="good")
    serving.deployments.deploy(serving.publish().name, by="ada", why="better")
    assert damaged.id in serving.backend.loaded()
    assert damaged.path is not None
    add_pickle(serving.artifacts.folder(damaged.path))
    for serve in (
        lambda: serving.deployments.deploy(damaged.name, by="ada", why="hope"),
        lambda: serving.deployments.canary.start(damaged.name, share=0.5, by="ada", why="hope"),
    ):
        with pytest.raises(ArtifactRefused, match=r"adapter_model\.bin is not a file"):
            serve()
        assert alias(serving.database) == "v3"


def test_a_pickle_is_not_even_published(tmp_path: Path, talkative_model: Path) -> None:
    artifacts = Artifacts(tmp_path)
    add_pickle(build_adapter(talkative_model, artifacts.staging("run")))
    with pytest.raises(ArtifactRefused, match=r"adapter_model\.bin is not a file that an adapter may have"):
        artifacts.seal("run")
