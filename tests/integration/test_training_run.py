"""Training runs as they really are: a process of their own, SQLite, a tiny model, and sudden deaths."""

import json
import signal
from importlib.util import find_spec
from pathlib import Path

import psutil
import pytest
import sqlalchemy as sa
import torch
from safetensors.torch import load_file

from storage.chats import chats
from storage.errors import LeaseLost
from storage.imports.importer import import_file
from storage.privacy.consent import delete_chat
from storage.registry import model_versions, training_runs
from storage.registry.artifacts import Published
from storage.registry.device_lock import DeviceLock
from tests.support.live_server import wait_until
from tests.support.rated_files import rated, write_rows
from tests.support.training_env import LONG, Build
from trainer.gate.comparison import HARMS
from trainer.gate.prompts import gate_prompts
from trainer.model.base_model import resolve
from trainer.runs import attempt
from trainer.taste.sampler import ReplySampler


def test_a_run_trains_publishes_and_deploys(build: Build, tmp_path: Path) -> None:
    reported = [name for name in ("tensorboard",) if find_spec("tensorboardX")]
    env = build(epochs=2, report_to=reported)
    voted = env.vote(20)
    contradicting = [rated(0, label=label) for label in (True, False)]
    import_file(env.database, write_rows(tmp_path / "a.jsonl", contradicting))
    run_id = env.request(beta=0.2)
    assert env.train(run_id) == attempt.DONE, env.log(run_id)
    events = list((env.settings.data_dir / "runs" / run_id / "tensorboard").glob("*"))
    assert [one.read_bytes().count(b"train/loss") for one in events] == [8] * len(reported), (
        "one of each step"
    )

    run = env.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 1), env.log(run_id)
    assert run.reason is not None
    assert run.reason.startswith("v2 is deployed.")
    assert env.deployed() == "v2"
    assert run.settings["beta"] == 0.2
    assert run.settings["precision"] == "fp32"
    assert run.snapshot is not None
    assert set(voted) < env.learned_from(run_id)
    assert run.snapshot["counts"] == {"up": 14, "down": 8, "people": 2}
    assert run.snapshot["held_out_chats"]

    version = env.version("v2")
    folder = env.artifacts.verify(version.path or "", version.files)
    assert sorted(version.files) == [
        *("README.md", "adapter_config.json", "adapter_model.safetensors", "lineage.json")
    ]
    lineage = json.loads((folder / "lineage.json").read_text())
    assert lineage["snapshot"]["sha256"] == run.snapshot["sha256"]
    assert set(lineage["message_ids"]) < set(voted), "held-out votes are not trained on"
    assert str(env.settings.data_dir) not in (folder / "adapter_config.json").read_text()
    assert version.metrics["candidate"]["n_desirable"] > 0
    assert version.metrics["deployed"]["margin"] == 0, "the base is its own reference"
    assert version.metrics["training"]["steps"] == version.metrics["plan"]["steps"] == 8
    plan = run.metrics["plan"]
    assert plan["rows"] + plan["held_out"] == 20
    assert plan["expected_seconds"] > 0
    log = env.log(run_id)
    assert f"{plan['rows']} examples to train on ({plan['up']} up, {plan['down']} down)" in log
    assert log.index("The training takes about") < log.index("Step 1 of 8")
    ((reason, count),) = run.metrics["dropped"].items()
    assert count == 2
    (one, other) = (name.split(" (unlike ") for name in plan["dropped_rows"][reason])
    assert [*one, *other] == [one[0], f"{other[0]})", other[0], f"{one[0]})"]
    assert f"Left out 2, because {reason}" in log
    card = (folder / "README.md").read_text()
    assert f"{plan['up']} desirable" in card
    assert run.snapshot["sha256"] in card
    assert not env.checkpoints(run_id)
    assert env.train(run_id) == attempt.NOT_OURS


def test_without_a_taste_replies_are_sampled_and_an_admin_decides(build: Build) -> None:
    """The votes of these chats do not depend on the text, so nothing can be said about new replies."""
    harmless = {f"gate_{one.name}_tolerance": 100 for one in HARMS}
    env = build(gate_prompts=5, gate_reply_tokens=8, strengths=[0.5], **harmless)
    env.vote(60)
    run_id = env.request()
    assert env.train(run_id) == attempt.DONE, env.log(run_id)
    version = env.version("v2")
    assert (version.state, env.deployed()) == ("candidate", "v1"), env.log(run_id)
    assert version.reason is not None
    assert version.reason.startswith("Not enough evidence. ")
    replies = version.metrics["replies"]
    assert replies["outcome"] == version.metrics["outcome"] == "not_enough_evidence"
    assert replies["replies"]["strengths"].keys() == {"0.5"}
    assert version.metrics["candidate"]["n_desirable"] > 0, "held-out votes are scored as well"
    assert env.run(run_id).metrics["seconds"]["sampling replies"] > 0
    folder = env.artifacts.verify(version.path or "", version.files)
    assert version.metrics["training"]["steps"] > 0
    assert json.loads((folder / "lineage.json").read_text())["training"]["strength"] == 0.5
    assert "| Strength | 0.5 |" in (folder / "README.md").read_text()


def test_a_run_learns_from_sampled_replies_that_people_would_like_and_a_later_attempt_from_the_same(
    build: Build,
) -> None:
    """People like what the base model writes, and not the other replies, so it can be told apart."""
    env = build(**LONG, sampled_prompts=30, sampled_replies=1, max_new_tokens=16)
    source = resolve(env.settings)
    sampler = ReplySampler(source, {}, env.settings, lambda _state: None)
    prompts = gate_prompts([], sampler.tokenizer, count=20, longest=200, system_prompt="Be brief.")
    voted = env.vote(60, liked=[reply.text for reply in sampler.sample(prompts, None, seed=9)])
    run_id = env.request()
    env.start_and_reach_checkpoint(run_id).kill()
    kept = json.loads((env.artifacts.run_folder(run_id) / "sampled.json").read_text())["rows"]
    wait_until(env.claimable, 30)
    assert env.train(run_id) == attempt.DONE, env.log(run_id)
    assert env.log(run_id).count("Sampling replies to learn from") == 1, "the first attempt's are kept"
    assert env.run(run_id).metrics["training"]["resumed_from_step"] > 0

    version = env.version("v2")
    sampled, plan = version.metrics["sampled"], version.metrics["plan"]
    assert sampled["rows"] == len(kept) > 0, env.log(run_id)
    assert sampled["prompts"] <= 30
    lineage = json.loads((env.artifacts.folder(version.path or "") / "lineage.json").read_text())
    assert lineage["sources"] == {"sampled": len(kept), "web": plan["rows"] - len(kept)}
    assert len(lineage["message_ids"]) == len(set(lineage["message_ids"])) == plan["rows"] - len(kept)
    assert set(lineage["message_ids"]) < set(voted)
    assert not (env.artifacts.run_folder(run_id) / "sampled.json").exists()


def test_all_weights_cannot_be_served_and_so_are_not_trained(build: Build) -> None:
    env = build(tuning="full")
    env.vote(6)
    run_id = env.request()
    assert env.train(run_id) == attempt.FAILED
    assert "set lora or qlora" in (env.run(run_id).reason or "")


def test_too_few_votes_are_skipped_and_force_trains_on_few_but_not_on_one_kind(
    build: Build,
) -> None:
    env = build(min_votes_per_class=50)
    env.vote(1)
    for force, reason in ((False, "at least 50 of each"), (True, "KTO needs both kinds")):
        run_id = env.request(force=force)
        assert env.train(run_id) == attempt.DONE
        assert env.run(run_id).state == "skipped"
        assert reason in (env.run(run_id).reason or "")

    env.vote(3)
    run_id = env.request(force=True)
    assert env.train(run_id) == attempt.DONE, env.log(run_id)
    run = env.run(run_id)
    assert run.state == "succeeded"
    assert "waits for an admin" in (run.reason or "")
    assert env.version("v2").state == "candidate"
    assert env.deployed() == "v1"


def test_a_killed_trainer_is_resumed_to_the_weights_of_an_uninterrupted_one(
    build: Build,
) -> None:
    env = build(**LONG)
    env.vote(12)
    whole = env.request()
    assert env.train(whole) == attempt.DONE, env.log(whole)
    run_id = env.request()
    env.start_and_reach_checkpoint(run_id).kill()
    before = env.run(run_id)
    env.vote(3)  # after the snapshot: not for this run
    wait_until(env.claimable, 30)
    assert env.train(run_id) == attempt.DONE, env.log(run_id)

    run = env.run(run_id)
    assert (run.state, run.attempts) == ("succeeded", 2), env.log(run_id)
    assert run.snapshot == before.snapshot
    assert "Resuming from checkpoint-" in env.log(run_id)
    assert run.metrics["training"]["resumed_from_step"] > 0
    assert run.metrics["training"]["engine"] == "shared-prefix"
    expected, resumed = (
        load_file(env.artifacts.folder(env.version(name).path or "") / "adapter_model.safetensors")
        for name in ("v2", "v3")
    )
    for name, weight in expected.items():
        torch.testing.assert_close(resumed[name], weight, rtol=1e-5, atol=1e-7)


def test_votes_withdrawn_between_attempts_are_not_trained_on_though_one_dies_before_its_first_step(
    build: Build,
) -> None:
    """The second attempt starts again, without the checkpoint of the first, which knew the vote."""
    env = build(**LONG, device_mode="exclusive")
    (reply, *_) = env.vote(12)
    run_id = env.request()
    env.start_and_reach_checkpoint(run_id).kill()
    with env.database.write() as session:
        delete_chat(session, chats.get_message(session, reply).chat_id)
    wait_until(env.claimable, 30)
    server = DeviceLock(env.settings.data_dir)
    wait_until(server.use)
    second = env.start(run_id)
    waiting = "waiting for the server to make way"
    wait_until(lambda: env.run(run_id).progress.get("phase") == waiting, 60, lambda: env.log(run_id))
    second.kill()
    server.close()
    wait_until(env.claimable, 30)
    assert env.train(run_id) == attempt.DONE, env.log(run_id)
    run = env.run(run_id)
    assert run.state == "succeeded"
    assert run.metrics["training"]["resumed_from_step"] == 0
    assert reply not in env.learned_from(run_id)


def test_a_run_whose_trainers_always_die_fails(build: Build) -> None:
    env = build(**LONG, max_attempts=1)
    env.vote(12)
    run_id = env.request()
    env.start_and_reach_checkpoint(run_id).kill()
    wait_until(env.claimable, 30)
    assert env.train(run_id) == attempt.NOT_OURS
    run = env.run(run_id)
    assert run.state == "failed"
    assert "died" in (run.reason or "")
    assert env.deployed() == "v1"


def test_a_database_that_does_not_answer_ends_the_attempt_and_not_the_run(build: Build) -> None:
    env = build()
    run_id = env.request()
    for before, after, code in (
        ("model_version", "away", attempt.RELEASED),
        ("away", "model_version", attempt.DONE),
    ):
        with env.database.write() as session:
            session.execute(sa.text(f"ALTER TABLE {before} RENAME TO {after}"))
        assert attempt.attempt_run(env.database, env.settings, run_id, owner="t") == code
        with env.database.write() as session:
            training_runs.expire_lease(session, run_id, "t")  # as a dispatcher does
    assert "The database does not answer (no such table" in env.log(run_id)
    assert (env.run(run_id).state, env.run(run_id).attempts) == ("skipped", 2), env.log(run_id)


def test_cancel_stops_a_running_trainer(build: Build) -> None:
    env = build(**LONG)
    env.vote(12)
    run_id = env.request()
    process = env.start_and_reach_checkpoint(run_id)
    with env.database.write() as session:
        training_runs.cancel_run(session, run_id)
    assert process.wait(timeout=60) == attempt.DONE
    assert env.run(run_id).state == "cancelled"
    assert not env.checkpoints(run_id)
    assert env.deployed() == "v1"


def test_sigterm_releases_the_run_with_its_last_step(build: Build) -> None:
    env = build(**{**LONG, "checkpoint_steps": 1000, "epochs": 200})
    env.vote(12)
    run_id = env.request()
    process = env.start(run_id)
    wait_until(lambda: env.run(run_id).progress.get("step", 0) > 2, 120, lambda: env.log(run_id))
    process.terminate()
    assert process.wait(timeout=60) == attempt.RELEASED
    run = env.run(run_id)
    assert (run.state, run.attempts) == ("requested", 0), env.log(run_id)
    (checkpoint,) = env.checkpoints(run_id)
    with env.database.write() as session:
        training_runs.cancel_run(session, run_id)
    assert int(checkpoint.name.removeprefix("checkpoint-")) > 2


def test_a_trainer_that_was_given_up_for_dead_publishes_nothing(build: Build) -> None:
    env = build(**LONG)
    env.vote(12)
    run_id = env.request()
    process = env.start_and_reach_checkpoint(run_id)
    with env.database.write():  # so that it is not stopped in the middle of a heartbeat, with SQLite's lock
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED)
    wait_until(env.claimable, 30)
    with env.database.write() as session:
        successor = training_runs.claim_run(
            session, run_id, owner="successor", lease_seconds=600, max_attempts=3
        )
    assert successor is not None
    process.send_signal(signal.SIGCONT)
    assert process.wait(timeout=120) == attempt.NOT_OURS, env.log(run_id)
    assert env.run(run_id).owner == "successor"
    with env.database.read() as session:
        assert model_versions.version_of_run(session, run_id) is None
    with pytest.raises(LeaseLost), env.database.write() as session:
        model_versions.publish_version(
            session,
            run_id,
            successor.fence - 1,
            Published("adapters/x", "0", {}),
            base_model=env.settings.model,
            metrics={},
        )


def test_a_training_that_diverges_fails_with_a_reason(build: Build) -> None:
    env = build(learning_rate=1e30, epochs=5)
    env.vote(12)
    run_id = env.request()
    assert env.train(run_id) == attempt.FAILED
    run = env.run(run_id)
    assert run.state == "failed"
    assert "THUMBLOOP_LEARNING_RATE" in (run.reason or ""), run.reason
    assert env.deployed() == "v1"
