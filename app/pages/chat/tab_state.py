"""The state of one browser tab of the chat page: which chat and branch it shows, read from storage.

Also limits how often a stream is drawn. Uses no Gradio component.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from sqlmodel import Session

from app.pages.chat.transcript import ShownMessage
from app.serving.reply import Queued
from app.web.languages import ENGLISH, Language
from storage.chats.chats import current_places, get_chat
from storage.chats.reasoning import Parts, Reasoning
from storage.chats.votes import votes_of
from storage.db.tables import Chat, Message
from storage.registry.model_versions import list_versions

UPDATE_SECONDS = 0.1  # a stream is coalesced to ten updates a second
CHATS_SHOWN = 40
MESSAGES_SHOWN = 100  # of a chat, the newest: each drawing sends all that are shown


@dataclass
class TabState:
    """One tab. All its handlers share this object, so a stream notices a change of chat."""

    loaded: bool = False  # False after a server restart: the page is older than this object
    chat_id: str | None = None
    consent: bool | None = None  # for the next new chat; None: the default of the settings
    consent_shown: bool | None = None  # by the box, as last drawn; a click may be on its way
    wished: dict[str, Any] | None = None  # system_prompt and sampling of the next new chat
    chats_shown: int = CHATS_SHOWN
    messages_shown: int = MESSAGES_SHOWN
    language: Language = ENGLISH
    zone: str = "UTC"  # the browser's time zone
    search: str = ""  # a text that the listed chats have
    seen: tuple[object, ...] = ()  # ChatState.seen of what was drawn last
    through: str | None = None  # a message on the chosen branch; None: the newest branch
    beginning: bool = False  # the first message of a new chat is being sent
    deleted: tuple[str, str] | None = None  # id and title of the chat that was deleted last, to be restored
    drawn: set[str] = field(default_factory=set)  # chats whose streaming reply this tab is drawing


def read_messages(
    session: Session, chat_id: str, user_id: str, through: str | None = None
) -> list[ShownMessage]:
    """A path of the chat (storage.chats.chats.current_path) with versions and the person's votes.

    Raises NotFound or NotAllowed.
    """
    get_chat(session, chat_id, owner_id=user_id)
    path = current_places(session, chat_id, through)
    votes = votes_of(session, user_id, [place.message.id for place in path])
    names = {version.id: version.name for version in list_versions(session)}
    return [
        ShownMessage(
            place.message,
            version=names.get(place.message.model_version_id or ""),
            vote=votes.get(place.message.id),
            alternatives=place.alternatives,
        )
        for place in path
    ]


@dataclass(frozen=True)
class ChatState:
    """A chat as a tab shows it, read in one transaction; `chat` is None before a new chat begins."""

    chat: Chat | None
    messages: list[ShownMessage]
    through: str | None
    consent: bool
    search: str = ""

    @property
    def chat_id(self) -> str | None:
        return self.chat.id if self.chat is not None else None

    @property
    def last(self) -> Message | None:
        return self.messages[-1].message if self.messages else None

    @property
    def streaming(self) -> Message | None:
        """The last message, if it is a reply under way."""
        return self.last if self.last is not None and self.last.state == "streaming" else None

    @property
    def reply(self) -> str:
        """`streaming` or `ended` if the last message is a reply, else empty."""
        if self.last is None or self.last.role != "assistant":
            return ""
        return "streaming" if self.last.state == "streaming" else "ended"

    @property
    def titling(self) -> bool:
        """Whether the model may be writing the chat's title: only the first reply has ended."""
        first = len(self.messages) == 2 and self.reply == "ended"
        return self.chat is not None and self.chat.titled_by is None and first

    @property
    def mark(self) -> tuple[object, ...]:
        """Changes when another event of the tab, or the end of a reply, requires another drawing."""
        last = (self.last.id, self.last.state) if self.last is not None else None
        return self.chat_id, self.through, self.consent, self.search, last

    @property
    def seen(self) -> tuple[object, ...]:
        """Changes also when another tab votes in the chat or renames it."""
        votes = [(item.message.id, item.vote.revision) for item in self.messages if item.vote is not None]
        return *self.mark, self.chat.title if self.chat is not None else "", tuple(votes)


def read_state(session: Session, tab: TabState, user_id: str, consent_default: bool) -> ChatState:
    """Read the chat that the tab shows. Raises NotFound, NotAllowed."""
    chat_id, through = tab.chat_id, tab.through
    if chat_id is None:
        consent = consent_default if tab.consent is None else tab.consent
        return ChatState(None, [], through, consent, tab.search)
    chat = get_chat(session, chat_id, owner_id=user_id)
    messages = read_messages(session, chat_id, user_id, through)
    return ChatState(chat, messages, through, chat.consent, tab.search)


def paced(deltas: Iterable[str], every: float = UPDATE_SECONDS) -> Iterator[Parts | Queued]:
    """The reply so far, at most once every `every` seconds, and its places in the queue before it.

    The last deltas may be left out.
    """
    reasoning = text = ""
    due = 0.0
    for delta in deltas:
        if isinstance(delta, Queued):
            yield delta
            continue
        if isinstance(delta, Reasoning):
            reasoning += delta
        else:
            text += delta
        if time.monotonic() >= due:
            yield Parts(reasoning, text)
            due = time.monotonic() + every
