"""Writes imported rows to the database in batches: each becomes a chat with a vote on its last reply.

The chats belong to the user `import`, who cannot sign in. A row is skipped if its key belongs to an imported
chat, or if it is an exported reply of this same database.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats.chats import TITLE_LENGTH
from storage.chats.tools import TOOL_ROLES
from storage.chats.votes import cast_vote, lock_vote_log
from storage.db.ids import new_id
from storage.db.tables import Chat, Message, Table, User, Vote, VoteEvent, now
from storage.imports.rows.row import REPEATED, REPLACED, ImportedRow, later
from storage.people.users import find_user

IMPORT_USER = "import"
UNDATED = "another vote of the same person on this reply is there, and without a time neither is the later"
TITLE_FROM = 1000  # characters of the first message that are enough for a title


@dataclass
class Added:
    """What became of a batch of rows."""

    added: int = 0
    changed: int = 0  # votes of earlier rows that the same person changed later
    duplicates: int = 0  # rows of an earlier import
    dropped: Counter[str] = field(default_factory=Counter)  # other rows that added nothing, by reason


class _Known(NamedTuple):
    """An imported chat with the vote on its reply."""

    message_id: str | None
    owner_id: str
    label: bool | None
    voted_at: datetime | None
    imported_at: datetime
    deleted: bool


def add_rows(session: Session, rows: Sequence[ImportedRow], source: str, began: datetime) -> Added:
    """Add the new rows, in order; `began` is when this import began, to know its own rows."""
    lock_vote_log(session)  # otherwise another import could add the same rows meanwhile
    owner = find_user(session, IMPORT_USER) or _import_user(session)
    report = Added()
    by_key: dict[str, ImportedRow] = {}
    for row in rows:
        earlier = by_key.setdefault(row.key, row)
        if earlier is row:
            continue
        if earlier.label == row.label:
            report.dropped[REPEATED] += 1
        else:  # rows with one key and two labels are one person's votes on one reply
            by_key[row.key] = later(earlier, row)
            report.dropped[REPLACED] += 1
    known = _known_rows(session, by_key, source)
    batch = _Batch(owner.id, source)
    for key, row in by_key.items():
        if key not in known:
            batch.append(key, row)
        else:
            _note_known(session, row, known[key], report, began)
    report.added = batch.insert(session)
    return report


def _note_known(
    session: Session, row: ImportedRow, found: "_Known | None", report: Added, began: datetime
) -> None:
    """Count a row that is there already, or change the vote if its person did."""
    ours = found is not None and found.imported_at >= began
    if (
        found is None
        or found.message_id is None
        or found.label is None
        or found.deleted
        or row.label == found.label
    ):
        if ours:
            report.dropped[REPEATED] += 1
        else:
            report.duplicates += 1
    elif row.voted_at is None and not ours:
        report.dropped[UNDATED] += 1
    elif row.voted_at and found.voted_at and row.voted_at < found.voted_at:
        report.dropped[REPLACED] += 1
    else:
        cast_vote(
            session,
            user_id=found.owner_id,
            message_id=found.message_id,
            label=row.label,
            tags=row.tags,
            comment=row.comment,
            correction=row.correction,
            share=row.share,
            at=row.voted_at,
        )
        if ours:
            report.dropped[REPLACED] += 1
        else:
            report.changed += 1


def _known_rows(session: Session, rows: Mapping[str, ImportedRow], source: str) -> dict[str, "_Known | None"]:
    """The rows that are in the database already, by key, with their votes if the row names its person."""
    # Until 0.1, a row was known by its text and label alone: an export imported then is not imported again.
    former = {row.text_key: key for key, row in rows.items() if row.ballot is not None}
    chats, messages, voted = (Table.metadata.tables[name] for name in ("chat", "message", "vote"))
    query = (
        sa.select(
            *chats.c["import_key", "source"],
            messages.c.id,
            chats.c.owner_id,
            *voted.c["label", "updated_at"],
            *chats.c["created_at", "deleted_at"],
        )
        .select_from(chats.outerjoin(messages.join(voted), messages.c.chat_id == chats.c.id))
        .where(col(Chat.import_key).in_([*rows, *former]))
    )
    known: dict[str, _Known | None] = {}
    for import_key, of, message_id, owner_id, label, voted_at, imported_at, deleted_at in session.execute(
        query
    ):
        found = _Known(message_id, owner_id, label, voted_at, imported_at, deleted_at is not None)
        if import_key in rows:
            known[import_key] = found
        elif of == source:
            known.setdefault(former[import_key], found)
    origins = {row.origin[0] for row in rows.values() if row.origin is not None}
    ours = set(session.exec(select(Message.id).where(col(Message.id).in_(origins)))) if origins else set()
    # Importing an export of our own reply does not bring the reply back, even if it was deleted since.
    mine = {key: None for key, row in rows.items() if row.origin is not None and row.origin[0] in ours}
    return mine | known


class _Batch:
    """The rows of chats, messages, votes and events, for one bulk insert into each table."""

    def __init__(self, owner_id: str, source: str) -> None:
        # Every column's default: a bulk insert creates no objects that would apply them.
        self._defaults: dict[type[Table], dict[str, Any]] = {
            Chat: Chat(owner_id=owner_id, source=source).model_dump(),
            Message: Message(chat_id="", role="").model_dump(),
            Vote: Vote(message_id="", user_id=owner_id).model_dump(),
            VoteEvent: VoteEvent(message_id="", user_id=owner_id, action="cast", revision=1).model_dump(),
        }
        del self._defaults[VoteEvent]["id"]
        self._rows: dict[type[Table], list[dict[str, Any]]] = {table: [] for table in self._defaults}

    def append(self, key: str, row: ImportedRow) -> None:
        at, chat_id = now(), new_id()
        system = row.turns[0].content if row.turns[0].role == "system" else ""
        turns = row.turns[1:] if row.turns[0].role == "system" else row.turns
        first = next(turn for turn in turns if turn.role not in TOOL_ROLES)
        title = " ".join(first.content[:TITLE_FROM].split())[:TITLE_LENGTH]
        chat = {"id": chat_id, "title": title, "system_prompt": system, "import_key": key}
        self._add(Chat, chat | {"created_at": at, "updated_at": at})
        message_id: str | None = None
        for turn in turns:
            message = {"chat_id": chat_id, "parent_id": message_id, "created_at": at, "role": turn.role}
            message_id = new_id()
            message |= {"id": message_id, "content": turn.content, "reasoning": turn.reasoning or None}
            self._add(Message, message)
        if row.cut:
            self._rows[Message][-1]["finish_reason"] = "length"
        if row.model is not None:
            self._rows[Message][-1]["sampling"] = {"model": row.model}
        voted_at = row.voted_at or at
        vote = {
            "message_id": message_id,
            "label": row.label,
            "tags": list(row.tags),
            "comment": row.comment,
            "correction": row.correction,
            "share": row.share,
            "created_at": voted_at,
        }
        self._add(Vote, vote | {"id": new_id(), "updated_at": voted_at})
        self._add(VoteEvent, vote)

    def insert(self, session: Session) -> int:
        """Insert everything; returns the number of chats."""
        for table, rows in self._rows.items():
            if rows:
                session.connection().execute(sa.insert(table), rows)
        return len(self._rows[Chat])

    def _add(self, table: type[Table], values: dict[str, Any]) -> None:
        self._rows[table].append(self._defaults[table] | values)


def _import_user(session: Session) -> User:
    user = User(name=IMPORT_USER, disabled=True)
    session.add(user)
    session.flush()
    return user
