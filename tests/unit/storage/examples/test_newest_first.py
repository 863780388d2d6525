"""Examples from the newest back are those of the plain order, found by an index."""

import io
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from storage.chats import signals, votes
from storage.db.database import Database
from storage.db.tables import Chat, now
from storage.examples.example import PAGE, Example, Examples
from storage.examples.newest_first import NewestExamples
from storage.imports import importer
from storage.privacy import consent, quarantine
from storage.privacy.consent import delete_chat
from storage.settings import Settings
from tests.support.examples import Listed
from tests.support.rows import add_person_with_reply, add_reply
from trainer.dataset.selection import choose
from trainer.dataset.snapshot import in_its_chat, take_snapshot

SIGNALS: Any = ["copied", "regenerated"]


@pytest.fixture
def store(database: Database) -> Database:
    """More votes than a page, and everything that takes votes out of a snapshot or adds to it."""
    rows = [
        {
            "prompt": f"Question {n}",
            "completion": "Yes.",
            "label": n % 7 != 0,
            "voted_at": (now() - timedelta(days=n % 11)).isoformat(),
        }
        for n in range(PAGE + 30)
    ]
    importer.import_file(database, io.BytesIO("\n".join(json.dumps(row) for row in rows).encode()))
    with database.write() as session:
        people = [add_person_with_reply(session) for _ in range(8)]
        for number, (person, chat, reply) in enumerate(people):
            other = add_reply(session, chat, "And?", "So.")
            for message, label in ((reply, number % 2 == 0), (other, number % 3 == 0)):
                votes.cast_vote(
                    session,
                    user_id=person.id,
                    message_id=message.id,
                    label=label,
                    correction="Better." if number in (1, 2) else None,
                )
            unrated = add_reply(session, chat, "More?", "No.")
            kind = "copied" if number % 2 else "regenerated"
            signals.record_signal(session, user_id=person.id, message_id=unrated.id, kind=kind)  # type: ignore[arg-type]
        changed, _, first = people[0]
        votes.cast_vote(session, user_id=changed.id, message_id=first.id, label=False)
        votes.clear_vote(session, user_id=people[3][0].id, message_id=people[3][2].id)
        delete_chat(session, people[4][1].id)
        consent.set_consent(session, session.get_one(Chat, people[5][1].id), False, by="ada")
        quarantine.set_quarantine(session, people[6][0].id, True, by="ada")
        # After the last signal, or it would belong to no snapshot.
        votes.cast_vote(session, user_id=changed.id, message_id=first.id, label=True)
    return database


def plain(database: Database, snapshot: int, **options: Any) -> list[Example]:
    """The examples in the order of their events, read from the beginning."""
    with database.read() as session:
        examples = Examples(session, snapshot, corrections=options.get("corrections", False))
        return [*examples.iterate(), *examples.signals(options.get("signals", ()))]


def newest_id(database: Database) -> int:
    with database.read() as session:
        return votes.latest_event_id(session)


@pytest.mark.parametrize("options", [{}, {"corrections": True}, {"signals": SIGNALS, "corrections": True}])
@pytest.mark.parametrize("back", [0, 9])
def test_each_kind_comes_newest_first_as_of_any_snapshot(
    store: Database, options: dict[str, Any], back: int
) -> None:
    snapshot = newest_id(store) - back
    since = now() - timedelta(days=5)
    every = sorted(plain(store, snapshot, **options), key=lambda example: -example.event_id)
    with store.read() as session:
        newest = NewestExamples(session, snapshot, **options)
        for label in (True, False):
            expected = [example for example in every if example.label == label]
            found = list(newest.of(label))
            assert len(expected) > 20
            assert [one.event_id for one in found] == [one.event_id for one in expected]
            assert sorted(map(repr, found)) == sorted(map(repr, expected))
            recent = [example for example in expected if example.voted_at >= since]
            assert 0 < len(recent) < len(expected)
            assert sorted(map(repr, newest.of(label, since))) == sorted(map(repr, recent))
            upper = found[3].event_id
            assert newest.count(label, up_to=upper) >= len(
                [
                    one
                    for one in expected
                    if one.event_id <= upper and one.source.startswith(("web", "import"))
                ]
            )


@pytest.mark.parametrize(
    "policy",
    [
        {},
        {"data_policy": "balanced", "row_budget": 37},
        {"data_policy": "balanced", "row_budget": 10, "max_rows_per_person": 1},
        {"data_policy": "window", "window_rows": 21, "replay_share": 0.5},
        {"data_policy": "window", "window_days": 4.5},
    ],
    ids=str,
)
def test_a_run_gets_from_the_store_what_the_policy_chooses_from_a_list(
    store: Database, policy: dict[str, Any]
) -> None:
    settings = Settings(train_on_corrections=True, train_on_signals=SIGNALS, **policy)
    as_of: Any = {"moment": datetime.now(UTC), "event_id": newest_id(store) - 2}
    with store.read() as session:
        found = take_snapshot(session, settings, **as_of)
        again = take_snapshot(session, settings, **as_of)
    assert found == again
    every = plain(store, found.event_id, corrections=True, signals=SIGNALS)
    by_event = sorted(every, key=lambda example: example.event_id)
    votes_only = [example for example in by_event if not example.source.startswith("signal")]

    class Feedback(Listed):
        def at(self, event_ids: Any) -> Any:
            return (example for example in votes_only if example.event_id in set(event_ids))

    expected = choose(Feedback(by_event), settings, moment=as_of["moment"])
    assert sorted(map(repr, found.examples)) == sorted(map(repr, map(in_its_chat, expected.examples)))
    with store.write() as session:  # what comes later changes nothing
        add_person_with_reply(session, label=False)
    with store.read() as session:
        assert take_snapshot(session, settings, **as_of) == found


def test_the_newest_of_a_kind_are_found_by_an_index_alone(store: Database) -> None:
    explained, planned = {
        "sqlite": (
            "EXPLAIN QUERY PLAN",
            "SEARCH vote_event USING COVERING INDEX ix_vote_event_label (label=? AND id<?)",
        ),
        "postgresql": ("EXPLAIN", "Index Only Scan Backward using ix_vote_event_label on vote_event"),
    }[store.dialect]
    steps: list[str] = []
    newest = newest_id(store)
    with store.read() as session:
        connection = session.connection()
        if store.dialect == "postgresql":  # which would read a table as small as this one as a whole
            connection.execute(sa.text("SET LOCAL enable_seqscan = off"))
            connection.execute(sa.text("SET LOCAL enable_bitmapscan = off"))

        def explain(_: Any, cursor: Any, statement: str, parameters: Any, *rest: Any) -> None:
            if statement.startswith("SELECT vote_event.id"):
                cursor.execute(f"{explained} {statement}", parameters)
                steps.extend(row[-1] for row in cursor.fetchall())

        sa.event.listen(connection, "before_cursor_execute", explain)
        next(NewestExamples(session, newest).of(False))
    assert any(planned in step for step in steps), steps
    assert not any("sort" in step.lower() or "b-tree" in step.lower() for step in steps), steps
