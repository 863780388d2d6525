"""The index of messages' texts: it finds a rare text without reading every message.

SQLite has a table of trigrams that triggers keep, PostgreSQL a GIN index of the extension pg_trgm (both of
migration 0015). The index only names candidates. Each of them is compared as without it, so a search finds
the same messages in any language.
"""

from itertools import chain, repeat
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.db.database import Database
from storage.db.tables import Message

FEW = 3000  # a text that more messages have is soon found among the newest ones
SHORTEST = 3  # characters of a text that has a trigram
LONGEST = 24  # trigrams of a text that are looked up
MERGED_PAGES = 500  # by one write, which others wait for
PARTS = ("message_text", "message_search", "ix_message_words")  # what their names begin with

_numbers = sa.table("message_text", sa.column("number"), sa.column("message_id"))
_search = sa.table("message_search", sa.column("rowid"))
# Literals, so that PostgreSQL may use the partial index.
_ENDED, _STREAMING = sa.text("message.state <> 'streaming'"), sa.text("message.state = 'streaming'")
_MERGE = sa.text("INSERT INTO message_search (message_search, rank) VALUES ('merge', :pages)")


def is_declared(name: str | None, _kind: str, _parents: object) -> bool:
    """Whether `tables.py` has what has this name in the database; Alembic's `include_name`."""
    return not (name or "").startswith(PARTS)


def has_text(column: Any, text: str) -> sa.ColumnElement[bool]:
    """Whether the column has this text, in capitals or not. SQLite knows the capitals of ASCII alone."""
    return col(column).icontains(text, autoescape=True)


def messages_with(session: Session, text: str) -> list[str] | None:
    """The ids of all messages with this text; None if they are many, or if no index can tell."""
    if len(text) < SHORTEST or "\x00" in text or not _is_indexed(session):
        return None
    has = has_text(Message.content, text)
    ended = select(Message.id).where(_ENDED, has)
    if _is_sqlite(session):
        match = sa.text("message_search MATCH :trigrams").bindparams(trigrams=_trigrams(text))
        ended = (
            ended.select_from(_search)
            .join(_numbers, _numbers.c.number == _search.c.rowid)
            .join(Message, col(Message.id) == _numbers.c.message_id)
            .where(match)
        )
    found = list(session.exec(ended.limit(FEW + 1)))
    if len(found) > FEW:
        return None
    return [*found, *session.exec(select(Message.id).where(_STREAMING, has))]


def forget_old_texts(database: Database) -> None:
    """Remove erased texts from SQLite's index, which until then only knows that they are gone.

    Merges the whole index, in small steps, so that votes need not wait for all of it. Does nothing on
    PostgreSQL, whose VACUUM does it.
    """
    if database.dialect != "sqlite":
        return
    # A negative number begins a merge of everything, and positive ones go on with it.
    for pages in chain((-MERGED_PAGES,), repeat(MERGED_PAGES)):
        with database.write() as session:
            before = _changes(session)
            session.execute(_MERGE, {"pages": pages})
            if _changes(session) - before < 2:  # nothing was left to merge, says SQLite's documentation
                return


def _changes(session: Session) -> int:
    return int(session.execute(sa.text("SELECT total_changes()")).scalar_one())


def _is_sqlite(session: Session) -> bool:
    return session.get_bind().dialect.name == "sqlite"


def _is_indexed(session: Session) -> bool:
    exists = sa.text("SELECT to_regclass('ix_message_words') IS NOT NULL")
    return _is_sqlite(session) or bool(session.execute(exists).scalar_one())


def _trigrams(text: str) -> str:
    """FTS5's query for texts with all these trigrams, wherever they stand."""
    every = dict.fromkeys(text[start : start + SHORTEST] for start in range(len(text) - SHORTEST + 1))
    return " AND ".join('"{}"'.format(one.replace('"', '""')) for one in list(every)[:LONGEST])
