"""The titles of a person's chats, and the search in them, on both engines."""

import pytest

from storage.chats import chats
from storage.db.database import Database
from storage.people import users
from tests.support.rows import add_person_with_reply, add_reply


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("RIVER", "13"),
        ("the boat", "2"),
        ("100%", "2"),
        ("0_", ""),
        ("%", "2"),
        ("\\", "3"),
        ("", "321"),
        ("élan", "3"),
    ],
)
def test_search_finds_text_of_titles_and_messages_as_it_is_written(
    database: Database, search: str, found: str
) -> None:
    with database.write() as session:
        person = users.create_anonymous(session)
        ids = {}
        talks = ["A river", "Rain"], ["Boats", "Of the BOAT 100% is wood."], ["Which \\river\\?", "élan"]
        for number, (question, answer) in enumerate(talks, 1):
            chat = chats.create_chat(session, person.id)
            add_reply(session, chat, question, answer)
            ids[chat.id] = str(number)
        add_person_with_reply(session, answer="A river of the boat, 100%")
        listed = chats.list_chats(session, person.id, search=search)
        assert sorted(ids[chat.id] for chat in listed) == sorted(found)
        assert [chat.id for chat in listed] == sorted((chat.id for chat in listed), reverse=True)


def test_title_follows_the_first_message_until_a_person_gives_one(database: Database) -> None:
    with database.write() as session:
        _, chat, reply = add_person_with_reply(session)
        first = chats.get_message(session, str(reply.parent_id))
        later = chats.get_message(session, str(add_reply(session, chat, "And then?").parent_id))
        chats.add_user_message(session, chat.id, "And now?", edits=later)
        assert chat.title == "Why?"
        chats.add_user_message(session, chat.id, "How so?", edits=first)
        assert chat.title == "How so?"
        chats.add_user_message(session, chat.id, "When?", edits=first)  # once more, from the first wording
        assert chat.title == "When?"
        chats.rename_chat(session, chat.id, "Reasons")
        chats.add_user_message(session, chat.id, "Wherefore?", edits=first)
        assert chat.title == "Reasons"


def test_a_pinned_chat_is_listed_apart(database: Database) -> None:
    with database.write() as session:
        person, first, _ = add_person_with_reply(session)
        second = chats.create_chat(session, person.id)
        chats.pin_chat(session, first.id, True)
        assert [chat.id for chat in chats.list_chats(session, person.id, pinned=True)] == [first.id]
        assert [chat.id for chat in chats.list_chats(session, person.id, pinned=False)] == [second.id]
        chats.pin_chat(session, first.id, False)
        assert chats.list_chats(session, person.id, pinned=True) == []
