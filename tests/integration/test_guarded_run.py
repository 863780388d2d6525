"""Runs whose guard sets votes aside, in trainers of their own, and what an admin sees and releases."""

import json

import pytest

from storage.chats import chats
from storage.people import users
from storage.privacy.releases import release
from storage.registry import model_versions
from storage.registry.set_aside import list_set_aside, people_set_aside
from tests.support.rows import add_reply
from tests.support.training_env import Build, TrainingEnv
from trainer.runs import attempt


def vote_as_people(env: TrainingEnv, people: int, votes: int) -> list[str]:
    """Each of them votes on that many replies, every other one up; returns the people's ids."""
    with env.database.write() as session:
        base = model_versions.ensure_base(session, env.settings.model)
        found = [users.create_anonymous(session).id for _ in range(people)]
        for place, person in enumerate(found):
            for number in range(votes):
                chat = chats.create_chat(session, person)
                question, answer = f"What is {place} times {number}?", f"It is {place * number}."
                add_reply(session, chat, question, answer, version_id=base.id, label=number % 2 == 0)
    return found


@pytest.mark.both_engines
def test_what_the_guard_sets_aside_is_counted_listed_and_released(build: Build, database_url: str) -> None:
    env = build(auth="accounts", max_votes_per_minute=6, database_url=database_url)
    env.vote(12)
    hasty = env.request()
    assert env.train(hasty) == attempt.DONE, env.log(hasty)
    run = env.run(hasty)
    assert (run.state, run.metrics["left_out"]) == (
        "skipped",
        {"more than 6 votes of one person within a minute": 12},
    )
    assert "votes from 0 people, but a run needs at least 2" in (run.reason or "")

    slow = vote_as_people(env, people=3, votes=6)
    first = env.request()
    assert env.train(first) == attempt.DONE, env.log(first)
    run = env.run(first)
    assert "The guard set aside 12 votes: more than 6 votes of one person within a minute." in env.log(first)
    assert run.metrics["left_out"] == {"more than 6 votes of one person within a minute": 12}
    assert {one["user_id"] for one in run.metrics["influence"]} == set(slow)
    assert sum(one["up"] for one in run.metrics["influence"]) == pytest.approx(1)
    limits = {"min_voters": 2, "max_share_per_person": 0.2, "max_votes_per_day": 100, "phrase_prompts": 5}
    assert {name: run.settings[name] for name in limits} == limits, "frozen as they apply"
    version = env.version("v2")
    folder = env.artifacts.verify(version.path or "", version.files)
    assert json.loads((folder / "lineage.json").read_text())["left_out"] == run.metrics["left_out"]
    with env.database.write() as session:
        (person,) = people_set_aside(session)
        listed = list_set_aside(session, limit=100)
        assert {one.run_id for one in listed} == {first}
        assert not env.learned_from(first) & {one.message_id for one in listed}
        release(session, person.user_id, by="admin")

    second = env.request()
    assert env.train(second) == attempt.DONE, env.log(second)
    assert {one.message_id for one in listed} <= env.learned_from(second)
    assert env.run(second).metrics["left_out"] == {}
    with env.database.read() as session:
        assert not list_set_aside(session, limit=1)
