"""The index of messages' texts: it finds a rare text without reading every message.

SQLite has a table of trigrams that triggers keep, PostgreSQL a GIN index of the extension pg_trgm (both of
migration 0015). Texts of two characters have indexes of their own (0020). An index only names candidates.
Each of them is compared as without it, so a search finds the same messages in any language.
"""

import sys
from itertools import chain, repeat
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.db.database import Database
from storage.db.tables import Message

FEW = 3000  # a text that more messages have is soon found among the newest ones
TRIGRAM, BIGRAM = 3, 2  # characters
MOST_TRIGRAMS = 24  # of a text that are looked up
MOST_CANDIDATES = 3 * FEW  # messages with a trigram that begins with two characters
MERGED_PAGES = 500  # by one write, which others wait for
PARTS = ("message_text", "message_search", "ix_message_words")  # what their names begin with

_numbers = sa.table("message_text", sa.column("number"), sa.column("message_id"))
_search = sa.table("message_search", sa.column("rowid"))
_terms = sa.table("message_search_terms", sa.column("term"), sa.column("doc"))
# Literals, so that PostgreSQL may use the partial index.
_ENDED, _STREAMING = sa.text("message.state <> 'streaming'"), sa.text("message.state = 'streaming'")
_END = sa.text("lower(substr(message.content, -2)) = lower(:text)")  # word for word as its index has it
_MERGE = sa.text("INSERT INTO message_search (message_search, rank) VALUES ('merge', :pages)")


def is_declared(name: str | None, _kind: str, _parents: object) -> bool:
    """Whether `tables.py` has what has this name in the database; Alembic's `include_name`."""
    return not (name or "").startswith(PARTS)


def has_text(column: Any, text: str) -> sa.ColumnElement[bool]:
    """Whether the column has this text, in capitals or not. SQLite knows the capitals of ASCII alone."""
    found: sa.ColumnElement[bool] = column.icontains(text, autoescape=True)
    return found


def messages_with(session: Session, text: str) -> list[str] | None:
    """The ids of all messages with this text; None if they are many, or if no index can tell."""
    sqlite = _is_sqlite(session)
    if "\x00" in text or len(text) < BIGRAM:
        return None
    if len(text) == BIGRAM:
        candidates = _with_terms(session, text) if sqlite else _with_bigram(text)
    elif sqlite:
        candidates = _matching(_all_trigrams(text))
    else:
        candidates = select(Message.id) if _is_indexed(session) else None
    if candidates is None:
        return None
    content: Any = Message.content
    if not sqlite and len(text) == BIGRAM:  # else PostgreSQL may read the whole index of trigrams for them
        content = content + ""
    has = has_text(content, text)
    found = list(session.exec(candidates.where(_ENDED, has).limit(FEW + 1)))
    if sqlite and len(text) == BIGRAM:
        at_the_end = select(Message.id).where(_ENDED, _END, has).params(text=text)
        found = list({*found, *session.exec(at_the_end.limit(FEW + 1))})
    if len(found) > FEW:
        return None
    return [*found, *session.exec(select(Message.id).where(_STREAMING, has))]


def _matching(trigrams: str) -> Any:
    """The messages that FTS5 finds."""
    return (
        select(Message.id)
        .select_from(_search)
        .join(_numbers, _numbers.c.number == _search.c.rowid)
        .join(Message, col(Message.id) == _numbers.c.message_id)
        .where(sa.text("message_search MATCH :trigrams").bindparams(trigrams=trigrams))
    )


def _with_terms(session: Session, text: str) -> Any:
    """Those with one of the trigrams that begin with this text; None if they may be many."""
    first = text.casefold()  # as the index has them
    if len(first) != BIGRAM:
        return None
    beginning = (_terms.c.term >= first, _terms.c.term < first + chr(sys.maxunicode))
    terms, candidates = [], 0
    for term, number in session.execute(sa.select(_terms).where(*beginning)):  # reads no more than it needs
        terms.append(term)
        candidates += number
        if candidates > MOST_CANDIDATES:
            return None
    return _matching(" OR ".join(map(_quoted, terms))) if terms else select(Message.id).where(sa.false())


def _with_bigram(text: str) -> Any:
    """PostgreSQL's index has no bigrams of ASCII alone; None for them."""
    if text.isascii() or len(text.lower()) != BIGRAM:
        return None
    bigram = sa.text("message_bigrams(message.content) @> ARRAY[lower(:bigram)]").bindparams(bigram=text)
    return select(Message.id).where(bigram)


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


def _all_trigrams(text: str) -> str:
    """FTS5's query for texts with all these trigrams, wherever they stand."""
    every = dict.fromkeys(text[start : start + TRIGRAM] for start in range(len(text) - TRIGRAM + 1))
    return " AND ".join(map(_quoted, list(every)[:MOST_TRIGRAMS]))


def _quoted(trigram: str) -> str:
    return '"{}"'.format(trigram.replace('"', '""'))
