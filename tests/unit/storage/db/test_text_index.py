"""The index of texts finds what reading every message finds, and forgets what is erased."""

import random
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, select

from storage.chats import chats
from storage.db.database import Database
from storage.db.tables import Message
from storage.db.text_index import FEW, has_text, messages_with
from storage.privacy import erasure
from tests.support.rows import add_answer, add_person_with_reply

# Capitals that only Unicode knows, marks, no spaces between words, both directions, LIKE's and FTS5's signs.
LETTERS = "aAbBzäÄßİıſKéé北京大学我 🙂שלום_%\\/\"'*^:()-\n"


def read_all(session: Session, text: str) -> set[str]:
    return set(session.exec(select(Message.id).where(has_text(Message.content, text))))


def is_left_out(database: Database, text: str) -> bool:
    """No index has single letters, nor those that become two; PostgreSQL's has no two of ASCII."""
    postgresql = database.dialect == "postgresql"
    return len(text) < 2 or len(text.casefold()) > len(text) == 2 or (postgresql and text.isascii())


def test_index_finds_what_reading_everything_finds(database: Database) -> None:
    draw = random.Random(0)
    texts = ["".join(draw.choices(LETTERS, k=draw.randint(1, 14))) for _ in range(300)]
    with database.write() as session:
        _, chat, _ = add_person_with_reply(session)
        rows = [Message(chat_id=chat.id, role="assistant", content=text).model_dump() for text in texts]
        session.execute(sa.insert(Message), rows)
        for text in texts:
            start = draw.randrange(len(text))
            pair = text[start : start + 2]
            for part in (text, text[start : start + 3].upper(), "".join(draw.choices(LETTERS, k=3)), pair):
                found = messages_with(session, part)
                assert (found is not None) or is_left_out(database, part), part
                assert found is None or set(found) == read_all(session, part)


def test_index_follows_a_message_until_it_is_gone(database: Database) -> None:
    def found(session: Session, text: str) -> int:
        return len(messages_with(session, text) or [])

    with database.write() as session:
        _, chat, reply = add_person_with_reply(session, answer="An old xylophone")
        streaming = add_answer(session, chat, str(reply.parent_id), state="streaming")
        chats.renew_replies(session, {streaming.id: chats.Parts("", "A new xylophone")})
        assert found(session, "XYLOPHONE") == 2
        chats.finish_reply(session, streaming.id, content="A drum", state="complete", finish_reason="stop")
        assert (found(session, "xylophone"), found(session, "drum")) == (1, 1)
        session.execute(sa.update(Message).where(sa.true()).values(content="Nothing of it"))
        assert (found(session, "xylophone"), found(session, "of it")) == (0, 3)
        session.execute(sa.delete(Message).where(Message.id == streaming.id))
        assert found(session, "of it") == 2


def test_a_text_that_many_messages_have_is_not_looked_up(database: Database) -> None:
    with database.write() as session:
        person, chat, _ = add_person_with_reply(session, answer="A xylophone")
        assert len(messages_with(session, "xylophone") or []) == 1
        assert messages_with(session, "鲸鱼") == []
        many = [
            Message(chat_id=chat.id, role="user", content="Xylophones 鲸鱼").model_dump() for _ in range(FEW)
        ]
        session.execute(sa.insert(Message), many)
        assert messages_with(session, "xylophone") is None
        assert len(messages_with(session, "鲸鱼") or []) == FEW
        session.execute(
            sa.insert(Message), Message(chat_id=chat.id, role="user", content="鲸鱼").model_dump()
        )
        assert messages_with(session, "鲸鱼") is None
        assert chats.list_chats(session, person.id, search="xylophone") == [chat]


def test_an_erased_text_leaves_no_trace_in_the_files(tmp_path: Path) -> None:
    path = tmp_path / "thumbloop.db"
    database = Database(f"sqlite:///{path}")
    database.migrate()
    people = []
    for answer in ("qzj is rare", "so is another", *map(str, range(20))):
        with database.write() as session:
            people.append(add_person_with_reply(session, answer=answer)[0].id)
    assert b"qzj" in path.read_bytes() + Path(f"{path}-wal").read_bytes()
    with database.write() as session:
        erasure.erase_user(session, people[0], by="admin")
    erasure.remove_copies(database, tmp_path)
    assert b"qzj" not in path.read_bytes() + Path(f"{path}-wal").read_bytes()
    with database.read() as session:
        assert messages_with(session, "qzj") == []
        assert len(messages_with(session, "another") or []) == 1
    database.close()
