"""Runs that choose their votes and continue from the deployed version, in processes of their own."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.training_env import House, houses
from trainer.runs import attempt


@pytest.fixture
def build(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., House]]:
    with houses(tmp_path, tiny_model) as build:
        yield build


def test_runs_choose_their_votes_and_continue_from_the_deployed_version(build: Callable[..., House]) -> None:
    house = build(training_mode="continue", data_policy="balanced", row_budget=16, half_life_days=1e-9)
    house.vote(15)
    first = house.request()
    assert house.train(first) == attempt.DONE, house.log(first)
    assert "v1 is deployed, the base model: there is no adapter to continue from." in house.log(first)
    assert (house.deployed(), house.run(first).snapshot["continued_from"]) == ("v2", None)  # type: ignore[index]

    voted = house.vote(15)
    second = house.request()
    assert house.train(second) == attempt.DONE, house.log(second)
    run, version, start = house.run(second), house.version("v3"), house.version("v2")
    assert run.snapshot is not None
    assert run.snapshot["counts"] == {"up": 8, "down": 8, "people": 2}
    assert set(voted[-5:]) < house.learned_from(second)
    assert run.snapshot["deployed"] == "v2"
    assert run.snapshot["continued_from"] == version.parent_id == start.id
    assert run.metrics["left_out"] == {"beyond the row budget of 16": 14}
    assert "The data policy left out up to 14 votes: beyond the row budget of 16." in house.log(second)
    assert {"reading votes", "tokenising", "training", "evaluating"} <= set(run.metrics["seconds"])
    assert run.settings["training_mode"] == "continue"
    folder = house.artifacts.verify(version.path or "", version.files)
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["continued_from"] == {"version": "v2", "sha256": start.sha256}
    assert lineage["left_out"] == run.metrics["left_out"]
    assert "reference: the adapter of v2, where training began" in (folder / "README.md").read_text()

    # v1 wrote all replies: while it was deployed they kept their weight, and now they are old.
    assert start.metrics["training"]["mean_loss"] > 0.1
    assert version.metrics["training"]["mean_loss"] < 0.01

    deployed = house.deployed()
    broken = house.artifacts.folder(house.version(deployed).path or "") / "adapter_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    refused = house.request()
    assert house.train(refused) == attempt.FAILED
    assert f"adapter of {deployed} cannot be continued" in (house.run(refused).reason or "")
    assert "THUMBLOOP_TRAINING_MODE=fresh" in (house.run(refused).reason or "")
    assert house.deployed() == deployed
    fresh = house.request(training_mode="fresh")
    assert house.train(fresh) == attempt.DONE, house.log(fresh)
    run = house.run(fresh)
    assert run.snapshot is not None
    assert run.snapshot["continued_from"] is None
    assert house.learned_from(fresh) == house.learned_from(second)
    # All texts are those of the first run, which began at the base model; with its values as the reference of
    # the second run, policy and reference would not have begun as the same model.
    for each in (second, fresh):
        assert house.run(each).metrics["training"]["noise_floor"] < 1e-3
    assert run.metrics["training"]["references_reused"] > 0
