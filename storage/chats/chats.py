"""Chats and their messages: each chat is a tree, in which a regenerated reply is a sibling of the first.

The text of a finished message never changes, except by erasure: votes and snapshots rely on this.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats.conversation import Turn
from storage.chats.reasoning import Parts
from storage.db.ids import new_id
from storage.db.rows import AHEAD, database_now, execute_core, get_row, newest_rows, next_id
from storage.db.tables import Chat, Message, Table, now
from storage.db.text_index import has_text, messages_with
from storage.errors import Conflict, InvalidInput, NotAllowed, NotFound
from storage.registry.canaries import choose_canary

TITLE_LENGTH = 60
# A reply whose server has not renewed its lease for so long is over: that server is dead or cut off.
REPLY_LEASE = timedelta(seconds=15)
INTERRUPTED = "interrupted"  # the finish reason of such a reply

# Written out, because SQLite uses a partial index only where the query has its condition word for word.
_STREAMING = sa.text("message.state = 'streaming'")
# Core statements, built once: each reply begins and ends with them.
_messages = Table.metadata.tables["message"]
_ADD_MESSAGE = sa.insert(_messages)
_UPDATE_STREAMING = sa.update(_messages).where(_messages.c.id == sa.bindparam("reply_id"), _STREAMING)
_FINISH = _UPDATE_STREAMING.returning(_messages)


@dataclass(frozen=True)
class Place:
    """A message on a path; `alternatives` are the ids of its siblings and itself, oldest first."""

    message: Message
    alternatives: list[str]


def draft_chat(
    session: Session,
    owner_id: str,
    *,
    system_prompt: str = "",
    sampling: Mapping[str, Any] | None = None,
    title: str = "",
    source: str = "web",
    consent: bool = True,
    split_by: str = "",
) -> Chat:
    """A new chat, not stored yet, and assigned to the current canary or not.

    Chats with the same `split_by` are assigned alike. Raises InvalidInput.
    """
    chat = Chat(
        id=next_id(session, Chat, Chat.owner_id == owner_id),
        owner_id=owner_id,
        system_prompt=check_text(system_prompt, "system_prompt"),
        sampling=dict(sampling) if sampling else None,
        title=check_text(title, "title"),
        titled_by="person" if title else None,
        source=source,
        consent=consent,
    )
    chat.canary_id = choose_canary(session, split_by or chat.id)
    return chat


def create_chat(session: Session, owner_id: str, **how: Any) -> Chat:
    """A new chat from `draft_chat`, stored."""
    chat = draft_chat(session, owner_id, **how)
    session.add(chat)
    session.flush()
    return chat


def get_chat(session: Session, chat_id: str, owner_id: str | None = None, **how: Any) -> Chat:
    """The chat; raises NotFound, or NotAllowed if it does not belong to `owner_id`, where given.

    `how` has arguments of `Session.get`.
    """
    chat = get_row(session, Chat, chat_id, "chat", **how)
    if chat.deleted_at is not None:
        raise NotFound(f"There is no chat {chat_id}.")
    if owner_id is not None and chat.owner_id != owner_id:
        raise NotAllowed(f"The chat {chat_id} belongs to somebody else.", code="not_yours")
    return chat


def list_chats(
    session: Session,
    owner_id: str,
    *,
    limit: int = 50,
    before: str | None = None,
    search: str = "",
    pinned: bool | None = None,
) -> list[Chat]:
    """A person's chats, newest first; `before` is the id of the last chat on the previous page.

    With `search`, those with this text in the title or in a message, in capitals or not. SQLite knows the
    capitals of ASCII letters alone. With `pinned`, those that the person pinned, or the others.
    """
    theirs: list[Any] = [Chat.owner_id == owner_id, col(Chat.deleted_at).is_(None)]
    if pinned is not None:
        theirs.append(col(Chat.pinned_at).is_not(None) if pinned else col(Chat.pinned_at).is_(None))
    if search:
        few = messages_with(session, search)
        said: sa.ColumnElement[bool]
        if few is not None:
            said = col(Chat.id).in_(select(Message.chat_id).where(col(Message.id).in_(few)))
        else:
            told = select(Message.id).where(Message.chat_id == Chat.id, has_text(Message.content, search))
            # With an offset, PostgreSQL reads the messages of a chat, and not at once those of everybody.
            said = told.offset(0).exists()
        theirs.append(has_text(Chat.title, search) | said)
    return newest_rows(session, Chat, *theirs, limit=limit, before=before)


def rename_chat(session: Session, chat_id: str, title: str) -> Chat:
    chat = get_chat(session, chat_id)
    chat.title = check_text(title, "title")
    chat.titled_by = "person"
    return chat


def wants_title(session: Session, reply: Message) -> bool:
    """Whether this is the first reply of a chat whose title is still the first words of its first message."""
    asked, chat = get_message(session, str(reply.parent_id)), get_chat(session, reply.chat_id)
    listed = chat.source != "openai"  # where nobody reads titles
    return listed and asked.parent_id is None and chat.titled_by is None and not _is_given(session, chat)


def entitle(session: Session, chat_id: str, title: str) -> None:
    """Give the chat the model's title, unless a person has given one or deleted the chat."""
    chat = session.get_one(Chat, chat_id, with_for_update=True)
    if chat.deleted_at is None and chat.titled_by is None and not _is_given(session, chat):
        chat.title, chat.titled_by = title, "model"


def change_system_prompt(session: Session, chat_id: str, prompt: str) -> Chat:
    """Raises Conflict once the chat has begun: examples would have a prompt that their replies had not."""
    chat = get_chat(session, chat_id, with_for_update=True)
    if session.exec(select(Message.id).where(Message.chat_id == chat_id).limit(1)).first() is not None:
        raise Conflict(
            "The chat has begun, and its votes are about replies to its system prompt; begin another chat.",
            code="chat_begun",
        )
    chat.system_prompt = check_text(prompt, "system_prompt")
    return chat


def pin_chat(session: Session, chat_id: str, pinned: bool) -> Chat:
    """Keep the chat on top of its owner's list, or no longer."""
    chat = get_chat(session, chat_id)
    chat.pinned_at = (chat.pinned_at or now()) if pinned else None
    return chat


def get_message(session: Session, message_id: str) -> Message:
    return get_row(session, Message, message_id, "message")


def add_user_message(
    session: Session,
    chat_id: str,
    content: str,
    *,
    parent_id: str | None = None,
    edits: Message | None = None,
) -> Message:
    """Add a message below the chat's newest one, below `parent_id`, or as a sibling of `edits`.

    Raises NotFound, InvalidInput, or Conflict if the parent is not a reply.
    """
    chat = get_chat(session, chat_id)
    if edits is not None:
        parent = get_message(session, edits.parent_id) if edits.parent_id is not None else None
    elif parent_id is None:
        path = current_path(session, chat_id)
        parent = path[-1] if path else None
    else:
        parent = get_message(session, parent_id)
        if parent.chat_id != chat_id:
            raise InvalidInput(f"The message {parent_id} is not of chat {chat_id}.", field="parent_id")
    if parent is not None and parent.role != "assistant":
        raise Conflict("The last message has no reply yet; regenerate it or wait.", code="reply_missing")
    message = Message(
        id=next_id(session, Message, Message.chat_id == chat_id),
        chat_id=chat_id,
        parent_id=parent.id if parent is not None else None,
        role="user",
        content=check_text(content, "content"),
    )
    if not chat.title or (parent is None and not _is_given(session, chat)):
        chat.title, chat.titled_by = short_title(content), None
    session.add(message)
    chat.updated_at = now()
    session.flush()
    return message


def _is_given(session: Session, chat: Chat) -> bool:
    """Whether a person gave the title; of chats before the column `titled_by`, its words tell."""
    if chat.titled_by is None:
        return chat.title not in _first_titles(session, chat.id)
    return chat.titled_by == "person"


def _first_titles(session: Session, chat_id: str) -> set[str]:
    """The titles that the wordings of the chat's first message gave it."""
    query = select(Message.content).where(Message.chat_id == chat_id, col(Message.parent_id).is_(None))
    return {short_title(content) for content in session.exec(query)}


def draft_messages(chat: Chat, turns: Iterable[Turn]) -> list[Message]:
    """A chat's first messages, each the child of the one before, not stored yet.

    Replies among them have the state "given": no model of ours wrote them, so they cannot be voted on.
    """
    path: list[Message] = []
    for turn in turns:
        message = Message(
            chat_id=chat.id,
            parent_id=path[-1].id if path else None,
            role=turn.role,
            content=check_text(turn.content, "content"),
            reasoning=check_text(turn.reasoning, "reasoning") or None,
            state="given" if turn.role == "assistant" else "complete",
        )
        path.append(message)
    return path


def add_chat(session: Session, chat: Chat, path: Sequence[Message]) -> None:
    """Store a drafted chat with its first messages; without a title, it gets one from the last message.

    The objects are not added to the session, so this can run again after a rollback.
    """
    chat.title = chat.title or short_title(path[-1].content)
    execute_core(session, sa.insert(Chat), chat.model_dump())
    execute_core(session, _ADD_MESSAGE, [message.model_dump() for message in path])


def begin_reply(
    session: Session,
    chat_id: str,
    parent_id: str,
    *,
    model_version_id: str,
    sampling: dict[str, Any],
    messages_left_out: int = 0,
    new_chat: bool = False,
    server: str | None = None,
) -> Message:
    """Store a reply that is about to stream, below a user's message; raises NotFound for a deleted chat.

    `server` names the one that generates it, which must renew its lease (`renew_replies`). With `new_chat`,
    stored in the same transaction, that check is skipped. The returned object is not in the session.
    """
    if not new_chat:
        # Locked, so that the chat is not erased between this check and the insert (PostgreSQL).
        get_chat(session, chat_id, with_for_update={"read": True}, populate_existing=True)
    reply = Message(
        id=new_id(after=parent_id) if new_chat else next_id(session, Message, Message.chat_id == chat_id),
        chat_id=chat_id,
        parent_id=parent_id,
        role="assistant",
        state="streaming",
        model_version_id=model_version_id,
        sampling=sampling,
        messages_left_out=messages_left_out,
        server=server,
        lease_until=database_now(session) + REPLY_LEASE,
    )
    execute_core(session, _ADD_MESSAGE, reply.model_dump())
    return reply


def finish_reply(
    session: Session,
    message_id: str,
    *,
    content: str,
    state: str,
    finish_reason: str,
    reasoning: str = "",
    token_ids: list[int] | None = None,
    timings: dict[str, Any] | None = None,
) -> Message:
    """Store the end of a streaming reply; a reply in another state, as after an erasure or with the finish
    reason INTERRUPTED, is returned unchanged.

    The object of a reply that was streaming is not in the session.
    """
    values = {
        "reply_id": message_id,
        "content": storable(content),
        "reasoning": storable(reasoning) or None,
        "state": state,
        "finish_reason": finish_reason,
        "token_ids": token_ids,
        "timings": timings,
        "lease_until": None,
    }
    # One statement, so that it never overwrites an erasure: PostgreSQL checks the condition again on a row
    # that it waited for.
    row = execute_core(session, _FINISH, values).one_or_none()
    if row is None:
        return session.get_one(Message, message_id, populate_existing=True)
    return Message(**row._mapping)


def stop_reply(session: Session, message_id: str) -> bool:
    """End a streaming reply of another server with its text so far; False if it is over.

    That server notices when it renews its lease.
    """
    message = session.get_one(Message, message_id, populate_existing=True)
    if message.state != "streaming":
        return False
    ended = finish_reply(
        session, message_id, content=message.content, state="stopped", finish_reason="cancelled"
    )
    return ended.finish_reason == "cancelled"


def current_path(session: Session, chat_id: str, through: str | None = None) -> list[Message]:
    """`current_places` without the alternatives."""
    return [place.message for place in current_places(session, chat_id, through)]


def current_places(session: Session, chat_id: str, through: str | None = None) -> list[Place]:
    """The messages from the root to the newest one.

    With `through`, to the newest message on a branch through that one; raises NotFound if it is not in the
    chat.
    """
    messages = _by_id(session, chat_id)
    branch = set(messages) if through is None else {through}
    if not branch <= messages.keys():
        raise NotFound(f"The chat {chat_id} has no message {through}.")
    alternatives: dict[str | None, list[str]] = {}
    for message in messages.values():
        alternatives.setdefault(message.parent_id, []).append(message.id)
        if message.parent_id in branch:
            branch.add(message.id)
    path = _up(messages, messages[max(branch)]) if branch else []
    return [Place(message, alternatives[message.parent_id]) for message in path]


def path_to(session: Session, message_id: str) -> list[Message]:
    """The messages from the root to this one, inclusive; raises NotFound."""
    message = get_message(session, message_id)
    return _up(_by_id(session, message.chat_id), message)


def _by_id(session: Session, chat_id: str) -> dict[str, Message]:
    """The chat's messages by id, oldest first."""
    query = select(Message).where(Message.chat_id == chat_id).order_by(col(Message.id))
    return {message.id: message for message in session.exec(query)}


def _up(messages: dict[str, Message], leaf: Message) -> list[Message]:
    path = [leaf]
    while path[-1].parent_id is not None:
        path.append(messages[path[-1].parent_id])
    return path[::-1]


def newest_child(session: Session, message_id: str) -> Message | None:
    """The newest message directly below this one, if any."""
    return next(iter(newest_rows(session, Message, Message.parent_id == message_id, limit=1)), None)


def prompt_messages(chat: Chat, path: Iterable[Message]) -> list[dict[str, str]]:
    """The messages for the model: the system prompt, if there is one, then those of the path."""
    system = [{"role": "system", "content": chat.system_prompt}] if chat.system_prompt else []
    return system + [Turn(one.role, one.content, one.reasoning or "").message for one in path]


def renew_replies(session: Session, texts: Mapping[str, Parts]) -> set[str]:
    """Renew the leases of these replies and keep their reasoning and text so far.

    Returns the ids of those that may go on: still streaming, in chats that are not deleted.
    """
    until = database_now(session) + REPLY_LEASE
    for reply_id in sorted(texts):  # in one order, so that two servers never wait for each other
        reasoning, content = map(storable, texts[reply_id])
        values = {"content": content, "reasoning": reasoning.strip() or None, "lease_until": until}
        execute_core(session, _UPDATE_STREAMING, {"reply_id": reply_id, **values})
    going_on = (col(Message.id).in_(texts), Message.state == "streaming", col(Chat.deleted_at).is_(None))
    return set(session.exec(select(Message.id).join(Chat).where(*going_on)))


def interrupted_replies(session: Session, *, all_servers: bool = False, lock: bool = False) -> list[Message]:
    """The streaming replies whose lease has run out; or, if no other server runs, all of them."""
    query = select(Message).where(_STREAMING)
    if not all_servers:
        moment, lease = database_now(session), col(Message.lease_until)
        # A lease that is longer than any can be was given before the database's clock was set back.
        query = query.where(lease.is_(None) | (lease <= moment) | (lease > moment + REPLY_LEASE + AHEAD))
    return list(session.exec(query.with_for_update(skip_locked=True) if lock else query))


def recover_interrupted(session: Session, *, all_servers: bool = False) -> int:
    """End the replies that a dead server left streaming, with their text so far; returns how many.

    Such a reply can be voted on, unless it has no text yet.
    """
    replies = interrupted_replies(session, all_servers=all_servers, lock=True)
    for reply in replies:
        reply.state = "stopped" if reply.content.strip() else "failed"
        reply.finish_reason = INTERRUPTED
        reply.lease_until = None
    return len(replies)


def storable(text: str) -> str:
    """The text without NUL, which PostgreSQL cannot store."""
    return text.replace("\x00", "")


def check_text(text: str, field: str) -> str:
    """Return the text if both database engines can store it; raises InvalidInput otherwise."""
    if "\x00" in text:
        raise InvalidInput(f"The {field} holds a NUL character; remove it.", field=field)
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInput(
            f"The {field} holds half of a surrogate pair at character {error.start}; send valid Unicode.",
            field=field,
        ) from error
    return text


def short_title(content: str) -> str:
    """A text as one line of a list of chats."""
    line = " ".join(content.split())
    return line if len(line) <= TITLE_LENGTH else line[: TITLE_LENGTH - 1] + "…"
