"""What one browser tab shows of a chat: which chat, its turns, and how often a stream is drawn.

Knows storage; knows no component.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from sqlmodel import Session

from app.pages.transcript import Turn
from storage.chats import current_places, get_chat
from storage.model_versions import list_versions
from storage.tables import Message
from storage.votes import votes_of

UPDATE_SECONDS = 0.1  # a stream is coalesced to ten updates a second
CHATS_SHOWN = 40


@dataclass
class View:
    """One tab. All its handlers share this object, so that a stream notices when it is left."""

    loaded: bool = False  # not so after a restart of the server: the page is older than this object
    chat_id: str | None = None
    consent: bool | None = None  # for the chat that is about to begin; None: as the settings say
    chats_shown: int = CHATS_SHOWN
    through: str | None = None  # a message on the branch that was chosen; None: the newest branch
    streaming: Message | None = None  # the reply that was under way when the page was loaded
    drawn: set[str] = field(default_factory=set)  # chats whose streaming reply this tab is drawing


def read_turns(session: Session, chat_id: str, user_id: str, through: str | None = None) -> list[Turn]:
    """A path of the chat (storage.chats.current_path) with versions and the person's votes.

    Raises NotFound or NotAllowed.
    """
    get_chat(session, chat_id, owner_id=user_id)
    path = current_places(session, chat_id, through)
    votes = votes_of(session, user_id, [place.message.id for place in path])
    names = {version.id: version.name for version in list_versions(session)}
    return [
        Turn(
            place.message,
            version=names.get(place.message.model_version_id or ""),
            vote=votes.get(place.message.id),
            alternatives=place.alternatives,
        )
        for place in path
    ]


def streaming_reply(turns: Sequence[Turn]) -> Message | None:
    """The last message, if it is a reply under way."""
    last = turns[-1].message if turns else None
    return last if last is not None and last.state == "streaming" else None


def paced(deltas: Iterable[str], every: float = UPDATE_SECONDS) -> Iterator[str]:
    """The text so far, at most once in `every` seconds; what came last may be left to the end."""
    text = ""
    due = 0.0
    for delta in deltas:
        text += delta
        if time.monotonic() >= due:
            yield text
            due = time.monotonic() + every
