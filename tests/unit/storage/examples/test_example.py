"""Examples as of a snapshot and their export, on both engines."""

import json

from storage.chats import chats, votes
from storage.db.database import Database
from storage.examples.example import Examples
from tests.support.rated_store import exported_lines
from tests.support.rows import add_answer, add_person_with_reply, add_reply


def export(database: Database, snapshot: int) -> list[str]:
    with database.read() as session:
        return exported_lines(session, snapshot)


def test_a_snapshot_never_changes(database: Database) -> None:
    with database.write() as session:
        person, chat, first = add_person_with_reply(session, system_prompt="Be kind.")
        second = add_reply(session, chat, "And then?", "Then this.")
        votes.cast_vote(session, user_id=person.id, message_id=second.id, label=True)
        votes.cast_vote(session, user_id=person.id, message_id=first.id, label=False)
        snapshot = votes.latest_event_id(session)
    before = export(database, snapshot)
    with database.write() as session:
        votes.cast_vote(session, user_id=person.id, message_id=second.id, label=False)
        votes.clear_vote(session, user_id=person.id, message_id=first.id)
        chats.rename_chat(session, chat.id, "other")
        add_reply(session, chat, "More", "of it")
    assert export(database, snapshot) == before
    rows = [json.loads(line) for line in before]
    assert [row["label"] for row in rows] == [True, False]
    assert rows[0]["prompt"] == [
        {"role": "system", "content": "Be kind."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": "And then?"},
    ]
    assert rows[0]["completion"] == [{"role": "assistant", "content": "Then this."}]
    assert rows[0]["model_version"] == "v1"
    with database.read() as session:
        now = [(e.message_id, e.label) for e in Examples(session, votes.latest_event_id(session)).iterate()]
    assert now == [(second.id, False)]


def test_a_regenerated_reply_shares_the_prompt_of_its_sibling(database: Database) -> None:
    with database.write() as session:
        person, chat, first = add_person_with_reply(session)
        again = add_answer(session, chat, first.parent_id or "", "Other.")
        for reply, label in ((first, False), (again, True)):
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=label)
        newest = chats.current_places(session, chat.id)[-1]
        assert (newest.message.id, newest.alternatives) == (again.id, [first.id, again.id])
        down, up = Examples(session, votes.latest_event_id(session)).iterate()
    assert down.prompt == up.prompt == [{"role": "user", "content": "Why?"}]
    assert (down.completion[0]["content"], up.completion[0]["content"]) == ("Because.", "Other.")
