"""From a message to a saved reply: the one path that the page and both APIs share."""

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from secrets import randbits
from typing import Any

from sqlmodel import Session

from app.chat.context_window import messages_left_out
from app.chat.live_reply import LiveReply
from app.chat.reply_recorder import ReplyRecorder
from app.chat.titles import TitleWriter
from app.rate_limit import limit_per_minute
from app.serving.backend import Prompt
from app.serving.deployments import Deployments
from app.serving.reply import Sampling
from app.telemetry.metrics import Metrics
from app.telemetry.tracing import Tracing
from storage.chats import chats, signals
from storage.chats.conversation import Turn
from storage.db.database import Database
from storage.db.tables import Chat, Message
from storage.errors import Busy, Conflict, InvalidInput, ThumbloopError, TooLarge, TooOften
from storage.settings import Settings
from storage.settings.training import SignalKind

log = logging.getLogger("thumbloop.serving")

SEED_BITS = 48  # an exact integer for every JSON reader, JavaScript included
CLOSE_SECONDS = 20.0
IDLE_SECONDS = 60.0  # that a title waits until nobody waits for a reply


class ChatService:
    """Sends messages, regenerates and cancels replies. Safe from any thread; calls may block for a while.

    A refused message leaves no trace. The prompt is checked and the reply admitted before anything is
    stored; then the person's message and the empty reply are stored in one transaction; only then does
    generation begin. So after Busy or prompt_too_long the chat is unchanged, and the same text can be sent
    again without duplicating it; after a crash in mid-reply the message is still there.
    """

    def __init__(
        self,
        database: Database,
        deployments: Deployments,
        settings: Settings,
        metrics: Metrics | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self._metrics = metrics or Metrics()
        self._database = database
        self._deployments = deployments
        self._settings = settings
        self._per_minute = limit_per_minute("replies", settings.max_replies_per_minute, settings)
        self._changed = threading.Condition()  # guards the fields below
        self._live: dict[str, LiveReply] = {}  # by message id
        self._chats: set[str] = set()  # chats with a reply under way
        self._draining = False
        self._closed = False
        self._titles = TitleWriter(database, deployments, self._wait_until_idle)
        self._recorder = ReplyRecorder(
            database, self._metrics, self._under_way, self._release, self._delivered, tracing
        )

    def start(self) -> None:
        """End the replies that a dead server left, then renew the leases of ours until `close`."""
        self._recorder.start()
        self._titles.start()

    def default_sampling(self) -> Sampling:
        """The sampling parameters of the settings."""
        settings = self._settings
        return Sampling(settings.temperature, settings.top_p, settings.max_new_tokens)

    def check_sampling(self, chosen: Mapping[str, Any]) -> dict[str, Any]:
        """Raises InvalidInput for a value that no reply can have."""
        replace(self.default_sampling(), **chosen)
        return dict(chosen)

    def begin(
        self,
        chat: Chat,
        turns: Sequence[Turn],
        content: str,
        *,
        sampling: Sampling | None = None,
        version_id: str | None = None,
        shorten: bool = True,
    ) -> LiveReply:
        """Store a drafted chat with the person's message and reply to it. `turns` are the earlier messages,
        as the client claims them. Raises as `send` does.
        """
        self._check_content(content)
        path = chats.draft_messages(chat, [*turns, Turn("user", content)])

        def store(session: Session) -> Message:
            chats.add_chat(session, chat, path)
            return path[-1]

        return self._reply(chat, path, store, sampling, version_id, shorten=shorten, new_chat=True)

    def send(
        self,
        user_id: str,
        chat_id: str,
        content: str,
        *,
        parent_id: str | None = None,
        edits: str | None = None,
        sampling: Sampling | Mapping[str, Any] | None = None,
        shorten: bool = True,
    ) -> LiveReply:
        """Add the person's message and reply to it: at the end of the chat, below the reply `parent_id`, or
        in place of their message `edits`. The edited message stays as another branch, and its reply gets
        the signal `edited`.

        `sampling` has what was chosen for this reply; the chat's own and the settings' have the rest.
        A seed is drawn if there is none, and stored, so that any reply can be reproduced. In a chat
        that is too long the model reads the latest turns; without `shorten` the message is refused. Raises
        InvalidInput, TooLarge, NotFound, NotAllowed, TooOften, Busy, Conflict (code `reply_streaming` while
        the chat's last reply is under way).
        """
        self._check_content(content)
        with self._database.read() as session:
            chat = chats.get_chat(session, chat_id, user_id)
            path, edited = _find_place(session, chat_id, parent_id, edits)
        leaf_id = path[-1].id if path else None

        def store(session: Session) -> Message:
            moved = parent_id is None and edits is None and _leaf_id_of(session, chat_id) != leaf_id
            if moved or chats.get_chat(session, chat_id).system_prompt != chat.system_prompt:
                raise Conflict(
                    "The chat has changed meanwhile; look at it and send again.", code="chat_changed"
                )
            if edited is not None:
                _note_signal(session, user_id, chats.newest_child(session, edited.id), "edited")
            return chats.add_user_message(session, chat_id, content, parent_id=leaf_id, edits=edited)

        question = Message(chat_id=chat_id, role="user", content=content)
        return self._reply(chat, [*path, question], store, sampling, shorten=shorten)

    def regenerate(
        self,
        user_id: str,
        message_id: str,
        *,
        sampling: Sampling | Mapping[str, Any] | None = None,
        compare: bool = False,
    ) -> LiveReply:
        """Generate another reply to the same message. `message_id` names a reply, or a message without one.

        To `compare` both says nothing against the first one, so no signal is recorded. Raises as `send` does.
        """
        with self._database.read() as session:
            message = chats.get_message(session, message_id)
            chat = chats.get_chat(session, message.chat_id, user_id)
            path = chats.path_to(session, message_id)
        if message.role == "assistant":
            path = path[:-1]
        if not path:
            raise InvalidInput(f"The message {message_id} answers nothing.", field="message_id")

        def store(session: Session) -> Message:
            replaced = message if message.role == "assistant" else chats.newest_child(session, message.id)
            _note_signal(session, user_id, None if compare else replaced, "regenerated")
            return chats.get_message(session, path[-1].id)

        return self._reply(chat, path, store, sampling)

    def cancel(self, message_id: str, user_id: str) -> bool:
        """Stop a reply that is under way, here or on another server; False if it is over.

        Raises NotFound, NotAllowed.
        """
        with self._database.read() as session:
            message = chats.get_message(session, message_id)
            chats.get_chat(session, message.chat_id, user_id)
        reply = self.live(message)
        if reply is not None:
            reply.cancel()
        elif message.state == "streaming":
            return self._database.small_write(partial(chats.stop_reply, message_id=message_id))
        return reply is not None

    def live(self, message: Message) -> LiveReply | None:
        """The reply if it is under way here; waits for one that is stored and about to begin.

        The caller has checked that the reply may be seen.
        """
        if message.state != "streaming":
            return None
        with self._changed:
            self._changed.wait_for(lambda: not self._is_beginning(message.chat_id))
            return self._live.get(message.id)

    def _is_beginning(self, chat_id: str) -> bool:
        return chat_id in self._chats and all(reply.chat_id != chat_id for reply in self._live.values())

    def _under_way(self) -> list[LiveReply]:
        with self._changed:
            return list(self._live.values())

    def _delivered(self, reply: Message) -> None:
        if not self._settings.model_titles or reply.state != "complete":
            return
        with self._database.read() as session:
            wanted = chats.wants_title(session, reply)
        if wanted:
            self._titles.want(reply.chat_id)

    def _wait_until_idle(self) -> bool:
        """Whether there was soon a moment without a reply under way."""
        with self._changed:
            self._changed.wait_for(lambda: self._closed or not self._live, IDLE_SECONDS)
            return not self._closed and not self._live

    @property
    def draining(self) -> bool:
        """Whether new messages are refused because this server is about to stop."""
        return self._draining

    def drain(self, seconds: float) -> None:
        """Refuse new messages, wait so long for the replies under way, and cancel those that are left."""
        with self._changed:
            self._draining = True
            if seconds and self._chats:
                log.info("Stopping: %d replies under way have %d s to end.", len(self._chats), seconds)
            self._changed.wait_for(lambda: not self._chats, seconds)
        for reply in self._under_way():
            reply.cancel()

    def close(self) -> None:
        """As `drain` without waiting, and then wait until the replies are saved."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        self._titles.close()
        self.drain(0)
        with self._changed:
            ended = self._changed.wait_for(lambda: not self._chats, CLOSE_SECONDS)
        if not ended:
            log.error("%d replies were still under way when the server stopped.", len(self._chats))
        self._recorder.stop(wait=ended)

    def _reply(
        self,
        chat: Chat,
        path: Sequence[Message],
        store: Callable[[Session], Message],
        sampling: Sampling | Mapping[str, Any] | None,
        version_id: str | None = None,
        *,
        shorten: bool = True,
        new_chat: bool = False,
    ) -> LiveReply:
        """Generate the reply to the last message of the path; `store` adds or finds that message."""
        sampling = self._settle(chat, sampling)
        self._claim(chat.id, path)
        try:
            if wait := self._per_minute.take(chat.owner_id):
                most = self._settings.max_replies_per_minute
                raise TooOften(
                    "At most {most} replies a minute; ask again in {wait} s.",
                    retry_after=wait,
                    most=most,
                    wait=wait,
                )
            left_out, prompt = self._prompt(chat, path, shorten=shorten)
            version, stream = self._deployments.stream(
                prompt,
                sampling,
                person=chat.owner_id,
                canary_id=chat.canary_id,
                version_id=version_id,
            )

            def begin(session: Session) -> Message:
                return chats.begin_reply(
                    session,
                    chat.id,
                    store(session).id,
                    model_version_id=version.id,
                    sampling=sampling.to_dict(),
                    messages_left_out=left_out,
                    new_chat=new_chat,
                    server=self._recorder.server,
                )

            try:
                message = self._database.small_write(begin)
            except BaseException:
                stream.cancel()  # it was admitted
                raise
        except BaseException as error:
            self._release(chat.id)
            if isinstance(error, ThumbloopError):
                self._metrics.refused(error)
            raise
        reply = LiveReply(
            *(stream.begin, chat.id, str(message.parent_id), message.id, version.name),
            on_piece=self._metrics.piece,
            on_end=self._recorder.record,
        )
        with self._changed:
            self._live[message.id] = reply
            self._changed.notify_all()
            closed = self._closed
        if closed:
            reply.cancel()
        reply.start()
        return reply

    def _prompt(self, chat: Chat, path: Sequence[Message], *, shorten: bool) -> tuple[int, Prompt]:
        """How many messages are left out of the prompt, and the prompt."""
        prompts: dict[int, Prompt] = {}

        def share(left_out: int) -> float:
            prompts[left_out] = self._deployments.prompt(chats.prompt_messages(chat, path[left_out:]))
            return prompts[left_out].share

        if not shorten:
            return 0, self._deployments.prompt(chats.prompt_messages(chat, path))
        left_out = messages_left_out(path, share)  # computes prompts[left_out] too
        return left_out, prompts[left_out]

    def _check_content(self, content: str) -> None:
        if not content.strip():
            raise InvalidInput("The message is empty; write something.", field="content")
        if len(content) > self._settings.max_message_chars:
            raise TooLarge(
                "The message has {length} characters; at most {most} are accepted. "
                "Shorten it or send it in parts.",
                field="content",
                length=len(content),
                most=self._settings.max_message_chars,
            )
        chats.check_text(content, "content")

    def _settle(self, chat: Chat, sampling: Sampling | Mapping[str, Any] | None) -> Sampling:
        """Limit the number of tokens to that of the settings, and draw a seed if there is none.

        A mapping is what was chosen for this reply; the chat's own choice and the settings have the rest.
        """
        if not isinstance(sampling, Sampling):
            sampling = replace(self.default_sampling(), **{**(chat.sampling or {}), **(sampling or {})})
        limit = min(sampling.max_new_tokens, self._settings.max_new_tokens)
        seed = sampling.seed if sampling.seed is not None else randbits(SEED_BITS)
        return replace(sampling, max_new_tokens=limit, seed=seed)

    def _claim(self, chat_id: str, path: Sequence[Message]) -> None:
        """Allow one reply at a time in a chat."""
        with self._changed:
            if self._draining:
                raise Busy("The server is stopping; send the message again once it is back.")
            if chat_id in self._chats or any(message.state == "streaming" for message in path):
                raise Conflict(
                    "A reply in this chat is still being written; wait for its end or stop it.",
                    code="reply_streaming",
                )
            self._chats.add(chat_id)

    def _release(self, chat_id: str, message_id: str = "") -> None:
        with self._changed:
            self._chats.discard(chat_id)
            self._live.pop(message_id, None)
            self._changed.notify_all()


def _find_place(
    session: Session, chat_id: str, parent_id: str | None, edits: str | None
) -> tuple[list[Message], Message | None]:
    """The path above a new message, and the message that it replaces. Raises InvalidInput, NotFound."""
    if parent_id is not None and edits is not None:
        raise InvalidInput("Give parent_id or edits, not both.", field="edits")
    named, field = (edits, "edits") if edits is not None else (parent_id, "parent_id")
    if named is None:
        return chats.current_path(session, chat_id), None
    message = chats.get_message(session, named)
    if message.chat_id != chat_id:
        raise InvalidInput(f"The message {named} is not of chat {chat_id}.", field=field)
    path = chats.path_to(session, named)
    if edits is None:
        return path, chats.newest_child(session, named)
    if message.role != "user":
        raise InvalidInput(f"The message {named} is a reply; only your own can be edited.", field=field)
    return path[:-1], message


def _note_signal(session: Session, user_id: str, reply: Message | None, kind: SignalKind) -> None:
    # Must be the transaction's first write: all that change the vote log wait for its lock before writing.
    if reply is not None and signals.is_over(reply):
        signals.record_signal(session, user_id=user_id, message_id=reply.id, kind=kind)


def _leaf_id_of(session: Session, chat_id: str) -> str | None:
    path = chats.current_path(session, chat_id)
    return path[-1].id if path else None
