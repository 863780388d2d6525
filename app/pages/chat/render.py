"""What the chat page shows of the open chat: its screen, and a reply while it streams.

Gradio sends the drawings of one tab's events in any order, but goes on with a generator only once its last
drawing is on the way. So after a drawing it is seen whether the tab has moved on meanwhile, and where it has,
the present state is drawn last. Knows the chat service and storage; knows no event and no layout.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.chat.live_reply import LiveReply
from app.chat.service import ChatService
from app.pages.chat.sidebar import chat_list
from app.pages.chat.tab_state import Look, View, look_at, paced, read_turns
from app.pages.chat.transcript import Turn, chatbot_messages, header, notice
from app.pages.chat.vote_details import OfferedTags
from app.web.auth import Identity
from storage.chats.chats import list_chats
from storage.db.database import Database
from storage.errors import ThumbloopError
from storage.registry.canaries import answering_version
from storage.settings import Settings

Update = dict[Any, Any]
Drawing = Callable[[Look], Update]


@dataclass(frozen=True)
class Screen:
    """The components that depend on which chat is open, and all that is drawn on them."""

    settings: Settings
    database: Database
    chat_service: ChatService
    chatbot: gr.Chatbot
    side: gr.HTML
    header: gr.HTML
    notice: gr.HTML
    consent: gr.Checkbox

    @property
    def components(self) -> list[Any]:
        return [self.chatbot, self.side, self.header, self.notice, self.consent]

    def look(self, view: View, identity: Identity) -> Look:
        """The chat that the tab shows, as the database has it now. Raises NotFound, NotAllowed."""
        with self.database.read() as session:
            return look_at(session, view, identity.user_id, self.settings.consent_default)

    def show(self, view: View, identity: Identity) -> Iterator[Update]:
        """Draw all of it, and end an event."""
        yield from self._settle(view, identity, self._drawing(view, identity))
        yield self.nothing

    def follow(
        self, view: View, identity: Identity, said: str | None = "", also: Update | None = None
    ) -> Iterator[Update]:
        """`show`, and go on with a reply that is under way: another tab has asked for it.

        `said` is the notice, None leaves what is there; `also` goes with the first drawing.
        """
        look = yield from self._settle(view, identity, self._drawing(view, identity, said), also)
        if look.streaming is not None and look.streaming.chat_id not in view.drawn:
            live = self.chat_service.live(look.streaming)
            if live is not None:
                yield from self.stream(view, identity, live)
            else:  # it ended since
                yield from self._settle(view, identity, self._drawing(view, identity, None))
        yield self.nothing

    def stream(
        self, view: View, identity: Identity, live: LiveReply, also: Update | None = None
    ) -> Iterator[Update]:
        """Draw a reply while it streams, and end the event with it; `also` goes with the first drawing.

        A reply goes on, undrawn, while the tab shows another chat, and is drawn again on return.
        """
        view.drawn.add(live.chat_id)
        view.through = None  # the reply is the newest message, so its branch is shown
        failure = ""
        try:
            draw = self._drawing(view, identity)
            shown = (yield from self._settle(view, identity, draw, also)).chat_id
            with self.database.read() as session:
                turns = read_turns(session, live.chat_id, identity.user_id)
            reply = turns[-1].message
            for text in paced(live):
                here = view.chat_id
                if here != live.chat_id:
                    if here != shown:  # that drawing may have come after the one of the chat opened meanwhile
                        yield draw(self.look(view, identity))
                elif reply.state == "streaming":  # otherwise it had ended before it was looked at
                    reply.content = text
                    yield {self.chatbot: self._transcript(turns)}
                shown = here
        except ThumbloopError as error:
            failure = error.message
        finally:
            view.drawn.discard(live.chat_id)
        yield from self._settle(view, identity, self._drawing(view, identity, failure))
        yield self.nothing

    @property
    def nothing(self) -> Update:
        """The end of a generator's event draws once more what it drew last, over whatever came since."""
        return {self.notice: gr.skip()}

    def _settle(
        self, view: View, identity: Identity, draw: Drawing, also: Update | None = None
    ) -> Generator[Update, None, Look]:
        """Draw until nothing has changed while it was sent; returns what was drawn."""
        look = self.look(view, identity)
        yield {**draw(look), **(also or {})}
        while (now := self.look(view, identity)).mark != look.mark:
            if now.chat_id != look.chat_id:
                view.consent_shown = None
            look = now
            yield draw(look)
        return look

    def _drawing(self, view: View, identity: Identity, said: str | None = "") -> Drawing:
        """How to draw all of a look, with that notice."""

        def draw(look: Look) -> Update:
            with self.database.read() as session:
                chats = list_chats(session, identity.user_id, limit=view.chats_shown + 1)
                answering = answering_version(session, look.chat).name
            more = len(chats) > view.chats_shown
            return {
                self.chatbot: self._transcript(look.turns),
                self.side: chat_list(chats[: view.chats_shown], look.chat_id, more, look.reply),
                self.header: header(identity, answering, accounts=self.settings.auth == "accounts"),
                self.notice: gr.skip() if said is None else notice(said),
                self.consent: self.consent_box(view, look),
            }

        return draw

    def consent_box(self, view: View, look: Look) -> Any:
        """Drawn where it changes only, or it would undo a click that is on its way."""
        if view.consent_shown is look.consent:
            return gr.skip()
        view.consent_shown = look.consent
        return look.consent

    def _transcript(self, turns: list[Turn]) -> list[dict[str, Any]]:
        settings = self.settings
        return chatbot_messages(turns, OfferedTags(settings.vote_tags_up, settings.vote_tags))
