"""Implicit signals: noted, counted and trained on apart from votes; no snapshot that was taken changes."""

import json
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis
from hypothesis import strategies as st
from sqlmodel import Session

from storage.chats import chats, signals, votes
from storage.chats.conversation import Turn
from storage.db.database import Database
from storage.db.tables import User
from storage.errors import Conflict, InvalidInput, NotAllowed
from storage.examples.filters import ExampleFilter
from storage.exports.exporter import Export
from storage.exports.plan import ExportPlan
from storage.privacy import erasure
from storage.privacy.consent import delete_chat
from storage.settings import Settings
from storage.settings.training import SignalKind
from tests.support.rated_store import SALT
from tests.support.rows import add_person_with_reply, add_reply
from trainer.dataset.snapshot import Snapshot, take_snapshot

NO_SIGNALS = {"tag": "wrong", "has_comment": True, "consent": "withheld", "quarantined": "only"}
ALL: list[SignalKind] = ["regenerated", "edited", "copied"]


def snapshot(database: Database, event_id: int, kinds: Sequence[SignalKind] = ALL, **more: Any) -> Snapshot:
    with database.read() as session:
        return take_snapshot(
            session,
            Settings(train_on_signals=list(kinds), **more),
            moment=datetime.now(UTC),
            event_id=event_id,
        )


def latest(database: Database) -> int:
    with database.read() as session:
        return votes.latest_event_id(session)


def found(database: Database, **more: Any) -> list[tuple[str, bool, str]]:
    """(reply's text, label, source) of everything that would be trained on now."""
    examples = snapshot(database, latest(database), **more).examples
    return [(e.completion[0]["content"], e.label, e.source) for e in examples]


def note(session: Session, user: User, message_id: str, kind: SignalKind) -> None:
    signals.record_signal(session, user_id=user.id, message_id=message_id, kind=kind)


def test_signals_train_only_where_the_setting_names_their_kind(database: Database) -> None:
    with database.write() as session:
        person, chat, voted = add_person_with_reply(session, system_prompt="Be kind.")
        replies = {kind: add_reply(session, chat, f"{kind}?", kind) for kind in ALL}
        for kind, reply in replies.items():
            note(session, person, reply.id, kind)
            note(session, person, reply.id, kind)  # once more changes nothing
            note(session, person, voted.id, kind)  # whoever votes has said it better
        votes.cast_vote(session, user_id=person.id, message_id=voted.id, label=True)
    assert found(database, kinds=[]) == [("Because.", True, "web")]
    assert found(database, kinds=["copied"])[1:] == [("copied", True, "signal:copied")]
    assert found(database)[1:] == [
        ("regenerated", False, "signal:regenerated"),
        ("edited", False, "signal:edited"),
        ("copied", True, "signal:copied"),
    ]
    assert found(database, exclude_sources=["signal"]) == [("Because.", True, "web")]
    assert found(database, exclude_sources=["signal:copied", "signal:edited"])[1:] == [
        ("regenerated", False, "signal:regenerated")
    ]
    taken = snapshot(database, latest(database))
    assert (taken.ups, taken.downs, taken.voters) == (1, 0, 1)  # signals are no votes
    assert taken.examples[1].prompt[0] == {"role": "system", "content": "Be kind."}
    assert taken.examples[1].prompt[-1] == {"role": "user", "content": "regenerated?"}
    assert taken.examples[1].token_ids == [5, 2]
    with database.read() as session:
        assert signals.count_signals(session) == dict.fromkeys(ALL, 2)
        assert votes.count_votes(session) == votes.VoteCounts(1, 0)


def test_an_export_says_what_a_training_on_signals_saw(database: Database) -> None:
    with database.write() as session:
        person, chat, voted = add_person_with_reply(session, system_prompt="Be kind.")
        for kind in ALL:
            note(session, person, add_reply(session, chat, f"{kind}?", kind).id, kind)
        votes.cast_vote(session, user_id=person.id, message_id=voted.id, label=True)
    event = latest(database)
    trained = snapshot(database, event).examples

    def exported(**wanted: Any) -> list[dict[str, Any]]:
        plan = ExportPlan(signals=ALL, filter=ExampleFilter(**wanted))
        with database.read() as session:
            export = Export(session, plan, salt=SALT, snapshot_event_id=event)
            rows = [json.loads(line) for line in b"".join(export.chunks()).splitlines()]
            assert (export.manifest()["signals"], export.manifest()["rows"]) == (ALL, len(rows))
            return rows

    names = ("prompt", "completion", "label", "source")
    assert [{name: row[name] for name in names} for row in exported()] == [
        {name: getattr(example, name) for name in names} for example in trained
    ]
    signal = trained[1]
    for wanted, kept in (
        ({"source": "signal:edited"}, ["edited"]),
        ({"source": "signal", "label": True}, ["copied"]),
        ({"source": "signal", "model_version": "v1", "max_tokens": 2, "user": person.id}, ALL),
        ({"source": "signal", "min_tokens": 3}, []),
        ({"source": "signal", "min_messages": len(signal.prompt) + 2}, ["edited", "copied"]),
        ({"source": "signal", "from_date": signal.voted_at, "has_comment": False}, ALL),
        ({"source": "signal", "to_date": signal.voted_at - timedelta(days=1)}, []),
        ({"source": "signal", "from_date": signal.voted_at + timedelta(days=1)}, []),
        *(({"source": "signal", name: value}, []) for name, value in NO_SIGNALS.items()),
    ):
        assert [row["source"].removeprefix("signal:") for row in exported(**wanted)] == kept, wanted


def test_a_signal_that_another_contradicts_trains_nothing_and_of_two_alike_one_does(
    database: Database,
) -> None:
    with database.write() as session:
        person, chat, first = add_person_with_reply(session)
        second = add_reply(session, chat, "2", "two")
        for reply, kinds in ((first, ("regenerated", "copied")), (second, ("regenerated", "edited"))):
            for kind in kinds:
                note(session, person, reply.id, kind)
        add_vote(session)
    assert found(database)[1:] == [("two", False, "signal:regenerated")]


def test_what_is_withdrawn_or_quarantined_gives_no_signal(database: Database) -> None:
    with database.write() as session:
        for change in ("consent", "deleted", "quarantined"):
            person, chat, reply = add_person_with_reply(session)
            note(session, person, reply.id, "copied")
            if change == "consent":
                chat.consent = False
            elif change == "deleted":
                delete_chat(session, chat.id)
            else:
                person.quarantined = True
            session.add_all([person, chat])
        add_vote(session)
    assert found(database) == [("Because.", True, "web")]
    with database.read() as session:
        export = Export(session, ExportPlan(signals=ALL, contradictions="drop"), salt=SALT)
        assert len(b"".join(export.chunks()).splitlines()) == 1
        assert export.manifest()["left_out"] == {"deleted chat": 1, "no consent": 1, "quarantined person": 1}


def test_erasing_a_person_deletes_their_signals(database: Database) -> None:
    with database.write() as session:
        person, _, reply = add_person_with_reply(session)
        note(session, person, reply.id, "copied")
        add_vote(session)
    assert len(found(database)) == 2
    with database.write() as session:
        assert erasure.preview_user(session, person.id).signals == 1
        assert erasure.erase_user(session, person.id, by="admin").signals == 1
        assert signals.count_signals(session)["copied"] == 0
    assert len(found(database)) == 1


def test_only_ones_own_finished_replies_give_signals(database: Database) -> None:
    with database.write() as session:
        person, chat, reply = add_person_with_reply(session)
        other, _, _ = add_person_with_reply(session)
        given = chats.draft_messages(chat, [Turn("user", "Hi"), Turn("assistant", "Hello")])
        session.add_all(given)
        failed = add_reply(session, chat, "?", "half", state="failed")
        for user, message_id, error in (
            (other, reply.id, NotAllowed),
            (person, given[-1].id, InvalidInput),
            (person, reply.parent_id, InvalidInput),
            (person, failed.id, Conflict),
        ):
            with pytest.raises(error):
                note(session, user, str(message_id), "copied")
        with pytest.raises(InvalidInput, match="not one of regenerated, edited, copied"):
            note(session, person, reply.id, "sighed")  # type: ignore[arg-type]


STEP = st.one_of(
    st.tuples(st.just("vote"), st.integers(0, 2), st.sampled_from([True, False, None])),
    st.tuples(st.just("signal"), st.integers(0, 2), st.sampled_from(ALL)),
    st.tuples(st.just("look"), st.just(0), st.none()),
)


@hypothesis(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(STEP, max_size=14))
def test_signals_that_come_later_change_no_snapshot(
    database: Database, steps: list[tuple[str, int, Any]]
) -> None:
    with database.write() as session:
        person, chat, first = add_person_with_reply(session)
        replies = [first, add_reply(session, chat, "2", "two"), add_reply(session, chat, "3", "three")]
    taken: dict[int, Snapshot] = {}
    for step, number, value in [*steps, ("look", 0, None)]:
        message_id = replies[number].id
        with database.write() as session:
            if step == "signal":
                note(session, person, message_id, value)
            elif step == "vote" and value is None:
                votes.clear_vote(session, user_id=person.id, message_id=message_id)
            elif step == "vote":
                votes.cast_vote(session, user_id=person.id, message_id=message_id, label=value)
        if step == "look":
            taken.setdefault(latest(database), snapshot(database, latest(database)))
        for event_id, before in taken.items():
            assert snapshot(database, event_id) == before


def add_vote(session: Session) -> None:
    """By somebody else, so that the latest snapshot has all signals so far."""
    add_person_with_reply(session, label=True)
