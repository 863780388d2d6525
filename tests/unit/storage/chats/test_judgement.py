"""Versions judged by their votes, on both engines: which votes count, who may decide, and what follows."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats import judgement, votes, webhook_outbox
from storage.chats.chat_votes import cast_chat_vote
from storage.chats.judgement import Judgement, Rules, capped, decide, judge_canary, judge_deployment
from storage.db.database import Database
from storage.db.tables import Canary, Deployment, Message, User, Vote, WebhookDelivery, now
from storage.privacy.quarantine import set_quarantine
from storage.registry import canaries, model_versions
from storage.settings import Settings
from tests.support.rows import (
    add_person_with_reply,
    add_reply,
    add_version,
    add_votes,
    audit_events,
    deploy,
    roll_back,
)
from tests.support.threads import at_once

ALONE = Rules(error_rate=0.05, min_votes=20, one_person_may_decide=True)
TOGETHER = Rules(error_rate=0.05, min_votes=20, one_person_may_decide=False)


def rate(database: Database, version: str, labels: Sequence[bool], *, people: int = 1) -> list[User]:
    with database.write() as session:
        return add_votes(session, version, labels, people=people)


def mixed(up: int, down: int) -> list[bool]:
    return [True] * up + [False] * down


def judge(database: Database, rules: Rules = ALONE) -> Judgement | None:
    with database.read() as session:
        return judge_deployment(session, rules)


def deployed(database: Database) -> str:
    with database.read() as session:
        return model_versions.deployed_version(session).name


def judged(database: Database, rules: Rules = ALONE) -> Judgement:
    found = judge(database, rules)
    assert found is not None
    return found


def act(database: Database, found: Judgement, rules: Rules = ALONE, *, tell: bool = False) -> str | None:
    with database.write() as session:
        version = judgement.act(session, found, rules, tell=tell)
        return version.name if version is not None else None


@pytest.fixture
def v2(database: Database) -> str:
    """Deployed after v1 got 60 of 100 thumbs up."""
    name = add_version(database)
    rate(database, "v1", mixed(60, 40), people=20)
    deploy(database, name)
    return name


def test_a_worse_version_is_rolled_back_with_its_reasons(database: Database, v2: str) -> None:
    assert judged(database).outcome == "undecided"
    rate(database, v2, mixed(10, 30), people=20)
    found = judged(database)
    assert (found.outcome, found.people, found.kind) == ("worse", 20, "deployment")
    assert (found.new.up, found.new.votes, found.old.up, found.old.votes) == (10, 40, 60, 100)
    assert found.why.startswith("v2: 10 of 40 liked (25 %), v1: 60 of 100 liked (60 %). v2 is liked less")
    assert act(database, found, tell=True) == "v1"
    assert deployed(database) == "v1"
    with database.read() as session:
        version = model_versions.get_version(session, v2)
        assert (version.state, version.reason) == ("candidate", f"Rolled back: {found.why}")
        newest = model_versions.deployments(session, limit=1)[0]
        assert (newest.by, newest.why) == ("monitor", f"Rolled back: {found.why}")
        event = audit_events(session)[0]
        assert (event.actor, event.action, event.target) == ("monitor", "version.rolled_back", "v2")
        (delivery,) = session.exec(select(WebhookDelivery)).all()
    assert delivery.event == "version.rolled_back"
    assert delivery.data is not None
    assert {name: delivery.data[name] for name in ("version", "deployed", "votes", "why")} == {
        "version": "v2",
        "deployed": "v1",
        "votes": 40,
        "why": found.why,
    }
    assert judge(database) is None, "what was rolled back to has been judged before"
    deploy(database, v2)
    assert judge(database) is None, "who deploys it again has seen what people think"


def test_a_version_that_is_liked_more_or_as_much_stays(database: Database, v2: str) -> None:
    rate(database, v2, mixed(24, 16))
    assert judged(database).outcome == "undecided"
    assert "and 20 : 1 decides" in judged(database).why
    rate(database, v2, mixed(60, 0))
    found = judged(database)
    assert found.outcome == "better"
    assert (found.kind, found.outcome) not in judgement.ACTIONS


def test_too_few_votes_decide_nothing(database: Database, v2: str) -> None:
    rate(database, v2, mixed(0, 19))
    found = judged(database)
    assert found.comparison.worse > 1000
    assert found.outcome == "undecided"
    assert found.why.endswith(". It takes 20 votes on the newer one to decide.")
    rate(database, v2, [False])
    assert judged(database).outcome == "worse"


def test_what_does_not_count(database: Database, v2: str) -> None:
    (person,) = rate(database, v2, mixed(0, 10))
    with database.write() as session:
        set_quarantine(session, person.id, True, by="ada", reason="a test")
    (person,) = rate(database, v2, mixed(0, 10))
    with database.write() as session:
        for vote in session.exec(select(Vote).where(Vote.user_id == person.id)).all():
            votes.clear_vote(session, user_id=person.id, message_id=vote.message_id)
    rate(database, v2, mixed(0, 10))
    with database.write() as session:  # as if given before the deployment, by name or as a canary
        version = model_versions.get_version(session, v2)
        early = now() - timedelta(days=1)
        replies = sa.update(Message).where(col(Message.model_version_id) == version.id)
        session.execute(replies.values(created_at=early))
    rate(database, "v1", mixed(0, 10))  # by a chat that is still on its way, or by name
    found = judged(database)
    assert (found.new.votes, found.old.votes) == (0, 100)
    rate(database, v2, mixed(0, 3))
    assert judged(database).new.votes == 3
    with database.write() as session:  # a vote on a whole chat is one
        version_id = model_versions.get_version(session, v2).id
        person, chat, _ = add_person_with_reply(session, version_id=version_id)
        for _ in range(4):
            add_reply(session, chat, version_id=version_id)
        cast_chat_vote(session, user_id=person.id, chat_id=chat.id, label=False)
    assert judged(database).new.votes == 4


def test_the_newest_votes_on_the_version_before_are_what_counts(database: Database, v2: str) -> None:
    rate(database, v2, mixed(31, 10))
    found = judged(database, replace(ALONE, most_votes=30))
    assert (found.old.up, found.old.votes) == (0, 30), "mixed() ends with thumbs down"
    assert (found.new.up, found.new.votes) == (30, 30), "the first ones"


def test_the_base_model_alone_is_not_judged(database: Database) -> None:
    assert judge(database) is None
    add_version(database)
    rate(database, "v1", mixed(3, 30))
    assert judge(database) is None


def test_a_rollback_by_hand_is_not_judged(database: Database, v2: str) -> None:
    v3 = add_version(database)
    rate(database, v2, mixed(30, 10))
    deploy(database, v3)
    assert roll_back(database) == v2
    rate(database, v2, mixed(0, 60))
    assert judge(database) is None


def test_what_does_not_hold_any_more_is_not_done(database: Database, v2: str) -> None:
    raters = rate(database, v2, mixed(8, 30))
    found = judged(database)
    assert found.outcome == "worse"
    with database.write() as session:
        set_quarantine(session, raters[0].id, True, by="ada", reason="a test")
    assert act(database, found) is None
    assert deployed(database) == v2


def test_of_several_servers_one_acts(database: Database, v2: str, settings: Settings) -> None:
    rate(database, v2, mixed(5, 35))
    found = judged(database)
    others = [Database(settings.database_address) for _ in range(3)]
    done = at_once([lambda each=each: act(each, found, tell=True) for each in (database, *others)])
    assert sorted(map(str, done)) == ["None", "None", "None", "v1"]
    for other in others:
        other.close()
    with database.read() as session:
        assert len(session.exec(select(Deployment)).all()) == 3
        assert len(session.exec(select(WebhookDelivery)).all()) == 1


def begin_canary(database: Database, up: int, down: int, other_up: int, other_down: int) -> Canary:
    """A canary with these votes in its chats, and those in the others."""
    with database.write() as session:
        canary = canaries.start_canary(session, "v2", share=0.5, by="ada", why="see")
        add_votes(session, "v2", mixed(up, down), canary_id=canary.id)
        add_votes(session, "v1", mixed(other_up, other_down))
        add_votes(session, "v1", mixed(9, 0), canary_id=canary.id)  # while it could not be served
    return canary


def judged_canary(session: Session) -> Judgement:
    found = judge_canary(session, ALONE)
    assert found is not None
    return found


def test_a_worse_canary_is_ended_and_a_better_one_promoted(database: Database) -> None:
    v2 = add_version(database)
    rate(database, "v1", mixed(0, 30))  # before the canary began
    begin_canary(database, 5, 25, 20, 10)
    with database.read() as session:
        found = judged_canary(session)
    assert (found.kind, found.outcome) == ("canary", "worse")
    assert (found.new.votes, found.old.votes) == (30, 30)
    assert act(database, found, tell=True) == "v1"
    with database.read() as session:
        assert model_versions.open_canary(session) is None
        version = model_versions.get_version(session, v2)
        assert (version.state, version.reason) == ("candidate", f"Its canary was ended: {found.why}")
        assert judge_canary(session, ALONE) is None
        assert session.exec(select(WebhookDelivery.event)).one() == "canary.ended"

    canary = begin_canary(database, 28, 2, 12, 18)
    with database.read() as session:
        found = judged_canary(session)
    assert found.outcome == "better"
    assert act(database, found) == "v2"
    with database.read() as session:
        ended = session.get_one(Canary, canary.id)
        assert ended.ending == "It was deployed."
        version = model_versions.get_version(session, v2)
        assert (version.state, version.reason) == ("ready", f"Promoted: {found.why}")
    assert deployed(database) == v2
    found = judged(database)
    assert found.new.votes == 0, "what promoted it does not protect it afterwards"


def ballots(**of: tuple[int, int]) -> list[tuple[str, bool]]:
    """By person: thumbs up and thumbs down."""
    return [(person, up) for person, (ups, downs) in of.items() for up in mixed(ups, downs)]


def test_one_person_decides_nothing_where_there_are_accounts() -> None:
    crowd = {f"p{n}": (3, 2) for n in range(20)}
    before = ballots(**crowd)
    others: dict[str, Any] = {f"p{n}": (3, 2) for n in range(6)}
    alone = ballots(eve=(0, 30), **others)
    assert decide(alone, before, ALONE)[0] == "worse"
    outcome, why = decide(capped(alone), before, TOGETHER)
    assert outcome == "undecided"
    assert "20 : 1 decides" in why
    everybody = ballots(**{f"p{n}": (1, 4) for n in range(10)})
    assert decide(everybody, before, TOGETHER)[0] == "worse"


def test_the_votes_of_one_on_both_versions_are_left_out_together() -> None:
    """Somebody who praises the old and condemns the new one."""
    before = ballots(eve=(30, 0), **{f"p{n}": (1, 1) for n in range(10)})
    after = ballots(eve=(0, 10), **{f"p{n}": (1, 1) for n in range(10)})
    assert decide(after, before, ALONE)[0] == "worse"
    assert decide(after, before, TOGETHER)[0] == "undecided"


def test_each_counts_for_ten_votes_or_for_a_fifth() -> None:
    few = ballots(eve=(0, 30), ada=(8, 0))
    assert [sum(who == name for who, _ in capped(few)) for name in ("eve", "ada")] == [10, 8]
    many = ballots(eve=(0, 60), **{f"p{n}": (1, 1) for n in range(20)})
    assert sum(who == "eve" for who, _ in capped(many)) == 20


def test_one_person_may_decide_on_a_machine_of_their_own(settings: Settings) -> None:
    assert Rules.of(settings).one_person_may_decide
    shared = settings.model_copy(update={"auth": "accounts"})
    assert not Rules.of(shared).one_person_may_decide
    assert Rules.of(shared.model_copy(update={"one_person_may_decide": "yes"})).one_person_may_decide


def test_an_event_that_is_no_vote_is_claimed_and_forgotten_like_one(database: Database) -> None:
    with database.write() as session:
        webhook_outbox.tell(session, "canary.ended", {"version": "v2"})
    with database.write() as session:
        lease = timedelta(seconds=60)
        (claim,) = webhook_outbox.claim_deliveries(session, limit=5, lease=lease, salt=b"s" * 32)
        assert (claim.event, claim.data, claim.attempt) == ("canary.ended", {"version": "v2"}, 1)
        assert webhook_outbox.note_delivered(session, claim)
