"""Writes imported rows to the database in batches: each becomes a chat with a vote on its last reply.

The chats belong to the user `import`, who cannot sign in. A row is skipped if its key belongs to an imported
chat, or if it is an exported reply of this same database.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats.chats import TITLE_LENGTH
from storage.chats.votes import lock_vote_log
from storage.db.ids import new_id
from storage.db.tables import Chat, Message, Table, User, Vote, VoteEvent, now
from storage.imports.rows.row import ImportedRow
from storage.people.users import find_user

IMPORT_USER = "import"
TITLE_FROM = 1000  # characters of the first message that are enough for a title


def add_rows(session: Session, rows: Sequence[ImportedRow], source: str) -> int:
    """Add the new rows, in order; returns how many."""
    lock_vote_log(session)  # otherwise another import could add the same rows meanwhile
    owner = find_user(session, IMPORT_USER) or _import_user(session)
    batch = _Batch(owner.id, source)
    by_key: dict[str, ImportedRow] = {}
    for row in rows:
        by_key.setdefault(row.key, row)  # of rows with the same key, the first
    known = _known_keys(session, by_key)
    for key, row in by_key.items():
        if key not in known:
            batch.append(key, row)
    return batch.insert(session)


def _known_keys(session: Session, rows: Mapping[str, ImportedRow]) -> set[str]:
    found = session.exec(select(Chat.import_key).where(col(Chat.import_key).in_(rows)))
    known = {key for key in found if key is not None}
    origins = {row.origin[0] for row in rows.values() if row.origin is not None}
    ours = set(session.exec(select(Message.id).where(col(Message.id).in_(origins)))) if origins else set()
    # Importing an export of our own reply does not bring the reply back, even if it was deleted since.
    return known | {key for key, row in rows.items() if row.origin is not None and row.origin[0] in ours}


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
        title = " ".join(turns[0].content[:TITLE_FROM].split())[:TITLE_LENGTH]
        chat = {"id": chat_id, "title": title, "system_prompt": system, "import_key": key}
        self._add(Chat, chat | {"created_at": at, "updated_at": at})
        message_id: str | None = None
        for turn in turns:
            message = {"chat_id": chat_id, "parent_id": message_id, "created_at": at, **turn._asdict()}
            message_id = new_id()
            self._add(Message, message | {"id": message_id})
        if row.model is not None:
            self._rows[Message][-1]["sampling"] = {"model": row.model}
        voted_at = row.voted_at or at
        vote = {
            "message_id": message_id,
            "label": row.label,
            "tags": list(row.tags),
            "comment": row.comment,
            "correction": row.correction,
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
