"""Runs that choose their votes and continue from the deployed version, in processes of their own."""

import json

from tests.support.training_env import Build
from trainer.runs import attempt


def test_runs_choose_their_votes_and_continue_from_the_deployed_version(
    build: Build,
) -> None:
    env = build(training_mode="continue", data_policy="balanced", row_budget=16, half_life_days=1e-9)
    env.vote(15)
    first = env.request()
    assert env.train(first) == attempt.DONE, env.log(first)
    assert "v1 is deployed, the base model: there is no adapter to continue from." in env.log(first)
    assert (env.deployed(), env.run(first).snapshot["continued_from"]) == ("v2", None)  # type: ignore[index]

    voted = env.vote(15)
    second = env.request()
    assert env.train(second) == attempt.DONE, env.log(second)
    run, version, start = env.run(second), env.version("v3"), env.version("v2")
    assert run.snapshot is not None
    assert run.snapshot["counts"] == {"up": 8, "down": 8, "people": 2}
    assert set(voted[-5:]) < env.learned_from(second)
    assert run.snapshot["deployed"] == "v2"
    assert run.snapshot["continued_from"] == version.parent_id == start.id
    assert run.metrics["left_out"] == {"beyond the row budget of 16": 14}
    assert "The data policy left out up to 14 votes: beyond the row budget of 16." in env.log(second)
    assert {"reading votes", "tokenising", "training", "evaluating"} <= set(run.metrics["seconds"])
    assert run.settings["training_mode"] == "continue"
    folder = env.artifacts.verify(version.path or "", version.files)
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["continued_from"] == {"version": "v2", "sha256": start.sha256}
    assert lineage["left_out"] == run.metrics["left_out"]
    assert "reference: the adapter of v2, where training began" in (folder / "README.md").read_text()

    # v1 wrote all replies: while it was deployed they kept their weight, and now they are old.
    assert start.metrics["training"]["mean_loss"] > 0.1
    assert version.metrics["training"]["mean_loss"] < 0.01

    deployed = env.deployed()
    broken = env.artifacts.folder(env.version(deployed).path or "") / "adapter_model.safetensors"
    broken.write_bytes(broken.read_bytes()[:-1])
    refused = env.request()
    assert env.train(refused) == attempt.FAILED
    assert f"adapter of {deployed} cannot be continued" in (env.run(refused).reason or "")
    assert "THUMBLOOP_TRAINING_MODE=fresh" in (env.run(refused).reason or "")
    assert env.deployed() == deployed
    fresh = env.request(training_mode="fresh")
    assert env.train(fresh) == attempt.DONE, env.log(fresh)
    run = env.run(fresh)
    assert run.snapshot is not None
    assert run.snapshot["continued_from"] is None
    assert env.learned_from(fresh) == env.learned_from(second)
    # All texts are those of the first run, which began at the base model; with its values as the reference of
    # the second run, policy and reference would not have begun as the same model.
    for each in (second, fresh):
        assert env.run(each).metrics["training"]["noise_floor"] < 1e-3
    assert run.metrics["training"]["references_reused"] > 0
