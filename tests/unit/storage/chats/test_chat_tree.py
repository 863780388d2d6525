"""Which branch of a chat is its current path, and the way to the others, on both engines."""

import pytest

from storage.chats import chats
from storage.db.database import Database
from storage.db.tables import Message
from storage.errors import NotFound
from tests.support.rows import add_person_with_reply, add_reply


def test_the_current_path_ends_with_the_newest_message_wherever_it_is(database: Database) -> None:
    with database.write() as session:
        _, chat, first = add_person_with_reply(session)
        follow_up = add_reply(session, chat, "And then?", "Then this.")
        assert first.parent_id is not None
        again = Message(chat_id=chat.id, parent_id=first.parent_id, role="assistant", content="Other.")
        session.add(again)
        session.flush()

        def path(through: str | None = None) -> list[str]:
            return [message.id for message in chats.current_path(session, chat.id, through)]

        assert path() == [first.parent_id, again.id]
        assert follow_up.parent_id is not None
        below_first = [first.parent_id, first.id, follow_up.parent_id, follow_up.id]
        assert path(first.id) == path(follow_up.id) == below_first
        assert path(first.parent_id) == path()
        alternatives = [place.alternatives for place in chats.current_places(session, chat.id, first.id)]
        assert alternatives == [[first.parent_id], [first.id, again.id], [below_first[2]], [follow_up.id]]

        question = chats.add_user_message(session, chat.id, "More", parent_id=follow_up.id)
        assert path() == [*below_first, question.id], "one goes on where one is, not beside it"


def test_a_path_through_a_message_of_another_chat_is_refused(database: Database) -> None:
    with database.write() as session:
        _, chat, _ = add_person_with_reply(session)
        _, other, reply = add_person_with_reply(session)
        assert other.id != chat.id
        with pytest.raises(NotFound, match="has no message"):
            chats.current_path(session, chat.id, reply.id)
        with pytest.raises(NotFound, match="has no message"):
            chats.current_path(session, chat.id, "nonsense")
