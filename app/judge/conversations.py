"""The conversations whose last turn several models answer: from a file that `import` reads, or from chats."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlmodel import Session, col, select

from storage.chats.chats import current_path
from storage.chats.conversation import Turn, shaped
from storage.db.tables import Chat, Message, ModelVersion, Vote
from storage.errors import InvalidInput
from storage.examples.filters import JUDGE
from storage.imports.files.source import open_source
from storage.imports.formats.table import sniff
from storage.imports.reader import Reading
from storage.imports.rows.fields import CHATS, Fields
from storage.imports.rows.format import prompt_turns
from storage.imports.rows.options import NO_OPTIONS
from storage.imports.rows.turns import with_system

ORIGINAL = "original"  # the author of a reply whose source names no model


@dataclass(frozen=True)
class Known:
    """A reply that the conversation came with, its author, and the vote of a person if there is one."""

    model: str
    content: str
    vote: bool | None = None

    def as_dict(self) -> dict[str, Any]:
        said = {"model": self.model, "content": self.content, "finished": True}
        return said if self.vote is None else {**said, "vote": self.vote}


@dataclass
class Conversation:
    """Messages that end with the user's, and the replies that they came with."""

    prompt: list[dict[str, str]]
    replies: list[Known] = field(default_factory=list)

    @property
    def id(self) -> str:
        """A hash of the messages."""
        text = json.dumps(self.prompt, ensure_ascii=False, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


def read_conversations(file: Path) -> list[Conversation]:
    """The conversations of a file or folder, each once, in their order.

    Rated data of any import format give their replies too, with the votes. Other records have a `prompt`,
    `question`, `instruction`, `turns` (the first counts) or `messages`; a reply at the end is kept. Raises
    InvalidInput, which names the record.
    """
    with open_source(file) as source:
        first = next(source.records(), None)
        if first is None:
            raise InvalidInput(f"{source.name} has no records.", field="prompts")
        if sniff(first.value or {}, NO_OPTIONS) is not None:
            reading = Reading(source, None, NO_OPTIONS, False, "reading", nothing="Nothing was asked")
            found = (
                (list(row.turns[:-1]), Known(row.model or ORIGINAL, row.turns[-1].content, row.label))
                for _, row in reading.rows()
            )
            return _merged(found)
        return _merged(
            _of_record(record.value, f"{source.name}, {record.position}", record.fault)
            for record in source.records()
        )


def chat_conversations(session: Session, limit: int | None = None) -> list[Conversation]:
    """The newest chats that people let us train on: each up to its last reply, with the vote on it."""
    chosen = (
        select(Chat.id)
        .where(col(Chat.deleted_at).is_(None), col(Chat.consent), ~col(Chat.source).startswith(JUDGE))
        .order_by(col(Chat.updated_at).desc(), col(Chat.id))
        .limit(limit)
    )

    def found() -> Iterator[tuple[list[Turn], Known | None]]:
        for chat_id in session.exec(chosen).all():
            chat, path = session.get_one(Chat, chat_id), current_path(session, chat_id)
            while path and (path[-1].role != "assistant" or not path[-1].content.strip()):
                path.pop()
            if len(path) < 2:
                continue
            *before, last = path
            turns = [Turn("system", chat.system_prompt)] if chat.system_prompt else []
            turns += [Turn(message.role, message.content) for message in before]
            vote = session.exec(select(Vote).where(Vote.message_id == last.id)).first()
            label = vote.label if vote is not None and not vote.quarantined else None
            yield turns, Known(_author(session, last), last.content, label)

    return _merged(found())


def _author(session: Session, reply: Message) -> str:
    """The version that wrote it, or the model that an import names."""
    if reply.model_version_id is not None:
        return session.get_one(ModelVersion, reply.model_version_id).name
    return str((reply.sampling or {}).get("model") or ORIGINAL)


def _of_record(
    value: dict[str, Any] | None, position: str, fault: str | None
) -> tuple[list[Turn], Known | None]:
    try:
        if value is None:
            raise InvalidInput(fault or "it cannot be read.")
        if (rated := sniff(value, NO_OPTIONS)) is not None:
            raise InvalidInput(f"it is rated, as {rated.name}, and the first record is not; split the file.")
        if isinstance(value.get("turns"), list) and value["turns"]:
            return [Turn("user", str(value["turns"][0]))], None
        fields = Fields(value)
        given = prompt_turns(fields, CHATS)
        if given is None:
            raise fields.missing("prompt")
        turns = with_system(given[0], fields.get("system"))
        if turns and turns[-1].role == "assistant":
            return turns[:-1], Known(ORIGINAL, turns[-1].content)
        return turns, None
    except InvalidInput as error:
        raise InvalidInput(f"{position}: {error.message} Nothing was asked.", field="prompts") from error


def _merged(found: Iterator[tuple[list[Turn], Known | None]]) -> list[Conversation]:
    """Each conversation once, with all its replies; of the same reply, the first."""
    merged: dict[str, Conversation] = {}
    for turns, known in found:
        one = Conversation([turn.message for turn in shaped(turns)])
        one = merged.setdefault(one.id, one)
        if known is not None and known.content not in [reply.content for reply in one.replies]:
            one.replies.append(known)
    return list(merged.values())
