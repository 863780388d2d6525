"""Votes as KTO examples, as of a snapshot.

A snapshot is a vote event's id: each (reply, person) counts with its latest event up to that id. The
prompt is every message before the reply on its branch, the system prompt included; the completion is
the reply alone. Deleted chats and chats without consent give no examples.
"""

import hashlib
import hmac
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, func, select

from storage.chats import prompt_messages
from storage.tables import Chat, Message, ModelVersion, VoteEvent

PAGE = 500


@dataclass(frozen=True)
class Example:
    """One unpaired preference, with where it came from."""

    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    label: bool
    message_id: str
    chat_id: str
    user_id: str
    model_version: str | None
    voted_at: datetime
    tags: list[str]
    comment: str | None
    source: str
    token_ids: list[int] | None  # the reply as generated, any EOS included; None for imported replies

    def to_row(self, *, salt: bytes) -> dict[str, Any]:
        """TRL's conversational unpaired preference, with provenance columns beside it."""
        return {
            "prompt": self.prompt,
            "completion": self.completion,
            "label": self.label,
            "message_id": self.message_id,
            "chat_id": self.chat_id,
            "user_hash": hmac.new(salt, self.user_id.encode(), hashlib.sha256).hexdigest()[:16],
            "model_version": self.model_version,
            "voted_at": self.voted_at.isoformat(),
            "tags": self.tags,
            "comment": self.comment,
            "source": self.source,
        }


def iter_examples(session: Session, snapshot_event_id: int) -> Iterator[Example]:
    """The examples of a snapshot in the order of their events, read in pages."""
    after = 0
    while True:
        events = _page(session, snapshot_event_id, after)
        if not events:
            return
        yield from _examples(session, events)
        after = events[-1].id or 0


def _page(session: Session, snapshot_event_id: int, after: int) -> list[VoteEvent]:
    later = (
        select(func.max(VoteEvent.id))
        .where(col(VoteEvent.id) <= snapshot_event_id)
        .group_by(col(VoteEvent.message_id), col(VoteEvent.user_id))
    )
    query = (
        select(VoteEvent)
        .where(
            col(VoteEvent.id) > after,
            col(VoteEvent.id) <= snapshot_event_id,
            col(VoteEvent.label).is_not(None),
            col(VoteEvent.id).in_(later),
        )
        .order_by(col(VoteEvent.id))
        .limit(PAGE)
    )
    return list(session.exec(query))


def _examples(session: Session, events: list[VoteEvent]) -> Iterator[Example]:
    replies = _by_id(session, Message, (event.message_id for event in events))
    chats = _by_id(session, Chat, (reply.chat_id for reply in replies.values()))
    versions = _by_id(
        session, ModelVersion, (r.model_version_id for r in replies.values() if r.model_version_id)
    )
    trees: dict[str, dict[str, Message]] = {}
    in_chats = col(Message.chat_id).in_(list(chats))
    for message in session.exec(select(Message).where(in_chats)):
        trees.setdefault(message.chat_id, {})[message.id] = message
    for event in events:
        reply = replies[event.message_id]
        chat = chats[reply.chat_id]
        if chat.deleted_at is not None or not chat.consent:
            continue
        version = versions.get(reply.model_version_id or "")
        yield Example(
            prompt=prompt_messages(chat, _before(reply, trees[chat.id])),
            completion=[{"role": "assistant", "content": reply.content}],
            label=bool(event.label),
            message_id=reply.id,
            chat_id=chat.id,
            user_id=event.user_id,
            model_version=version.name if version is not None else None,
            voted_at=event.created_at,
            tags=event.tags,
            comment=event.comment,
            source=chat.source,
            token_ids=reply.token_ids,
        )


def _before(reply: Message, tree: dict[str, Message]) -> list[Message]:
    path: list[Message] = []
    step = reply
    while step.parent_id is not None:
        step = tree[step.parent_id]
        path.append(step)
    return path[::-1]


def _by_id(session: Session, table: Any, ids: Iterable[str]) -> dict[str, Any]:
    return {row.id: row for row in session.exec(select(table).where(table.id.in_(set(ids))))}
