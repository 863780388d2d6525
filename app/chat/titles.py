"""Short titles that the model writes for new chats, once the first reply has been delivered."""

import logging
import queue
import threading
from collections.abc import Callable
from functools import partial

from app.serving.deployments import Deployments
from app.serving.reply import ReplyStream, Sampling
from storage.chats import chats
from storage.db.database import Database
from storage.errors import ThumbloopError

log = logging.getLogger("thumbloop.serving")

ASKS = (
    "Write a title for this conversation in its own language, of at most six words. "
    "Answer with the title alone.\n\n{question}\n\n{reply}"
)
READ_CHARS = 1000  # of each of the two messages
GREEDY = Sampling(temperature=0.0, top_p=1.0, max_new_tokens=24)
MOST_WAITING = 100
QUOTES = "\"'“”„«»「」*#` "


class TitleWriter:
    """One thread asks for one title after another, while `idle()` says that nobody waits for a reply.

    A chat whose title cannot be had keeps the first words of its first message: the model failed, was busy,
    answered at length, or a person gave a title meanwhile.
    """

    def __init__(self, database: Database, deployments: Deployments, idle: Callable[[], bool]) -> None:
        self._database = database
        self._deployments = deployments
        self._idle = idle
        self._wanted: queue.Queue[str] = queue.Queue(MOST_WAITING)
        self._stream: ReplyStream | None = None
        self._closed = False
        self._thread = threading.Thread(target=self._work, name="titles", daemon=True)

    def want(self, chat_id: str) -> None:
        """Returns at once; when many chats wait, this one keeps its first words."""
        try:
            self._wanted.put_nowait(chat_id)
        except queue.Full:
            log.debug("The chat %s gets no title: many are waiting.", chat_id)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """Stop the title that is being written."""
        self._closed = True
        if (stream := self._stream) is not None:
            stream.cancel()

    def _work(self) -> None:
        while not self._closed:
            chat_id = self._wanted.get()
            try:
                if self._idle():
                    self._write(chat_id)
            except ThumbloopError as error:
                log.debug("The chat %s gets no title: %s", chat_id, error)
            except Exception:
                log.exception("The chat %s gets no title.", chat_id)

    def _write(self, chat_id: str) -> None:
        with self._database.read() as session:
            chat = chats.get_chat(session, chat_id)
            said = [message.content[:READ_CHARS] for message in chats.current_path(session, chat_id)[:2]]
        asked = ASKS.format(question=said[0], reply=said[1])
        _, self._stream = self._deployments.stream(
            [{"role": "user", "content": asked}], GREEDY, person=chat.owner_id, canary_id=chat.canary_id
        )
        end = self._stream.end
        title = as_title(end.content) if end.finish_reason == "stop" else ""
        if title:
            self._database.small_write(partial(chats.entitle, chat_id=chat_id, title=title))


def as_title(answer: str) -> str:
    """The title in a model's answer, or "" if it is none: several lines, or longer than a title can be."""
    line = answer.strip().removeprefix("Title:").strip(QUOTES).rstrip(".。")
    return line if len(line.splitlines()) == 1 and len(line) <= chats.TITLE_LENGTH else ""
