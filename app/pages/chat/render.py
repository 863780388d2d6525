"""Draws the open chat on the chat page, and a reply while it streams.

Gradio sends the drawings of one tab's events in any order, but goes on with a generator only once its last
drawing is on the way. So after a drawing it is seen whether the tab has moved on meanwhile, and where it has,
the present state is drawn last. Uses the chat service and storage, but no event and no layout.
"""

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any

import gradio as gr

from app.chat.live_reply import LiveReply
from app.chat.service import ChatService
from app.pages.chat.sidebar import chat_list
from app.pages.chat.tab_state import ChatState, TabState, paced, read_messages, read_state
from app.pages.chat.transcript import ShownMessage, chatbot_messages, header, notice
from app.pages.chat.vote_details import OfferedTags
from app.web.auth import Identity
from storage.chats.chats import list_chats
from storage.db.database import Database
from storage.errors import ThumbloopError
from storage.registry.canaries import answering_version
from storage.settings import Settings

Update = dict[Any, Any]
Drawing = Callable[[ChatState], Update]


@dataclass(frozen=True)
class ChatRenderer:
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

    def read(self, tab: TabState, identity: Identity) -> ChatState:
        """The chat that the tab shows, as the database has it now. Raises NotFound, NotAllowed."""
        with self.database.read() as session:
            return read_state(session, tab, identity.user_id, self.settings.consent_default)

    def show(self, tab: TabState, identity: Identity) -> Iterator[Update]:
        """Draw all of it, and end an event."""
        yield from self._settle(tab, identity, self._drawing(tab, identity))
        yield self.nothing

    def follow(
        self, tab: TabState, identity: Identity, said: str | None = "", also: Update | None = None
    ) -> Iterator[Update]:
        """`show`, and go on with a reply that is under way: another tab has asked for it.

        `said` is the notice, None leaves what is there; `also` goes with the first drawing.
        """
        state = yield from self._settle(tab, identity, self._drawing(tab, identity, said), also)
        if state.streaming is not None and state.streaming.chat_id not in tab.drawn:
            live = self.chat_service.live(state.streaming)
            if live is not None:
                yield from self.stream(tab, identity, live)
            else:  # it ended since
                yield from self._settle(tab, identity, self._drawing(tab, identity, None))
        yield self.nothing

    def stream(
        self, tab: TabState, identity: Identity, live: LiveReply, also: Update | None = None
    ) -> Iterator[Update]:
        """Draw a reply while it streams, and end the event with it; `also` goes with the first drawing.

        A reply goes on, undrawn, while the tab shows another chat, and is drawn again on return.
        """
        tab.drawn.add(live.chat_id)
        tab.through = None  # the reply is the newest message, so its branch is shown
        failure = ""
        try:
            draw = self._drawing(tab, identity)
            shown = (yield from self._settle(tab, identity, draw, also)).chat_id
            with self.database.read() as session:
                messages = read_messages(session, live.chat_id, identity.user_id)
            reply = messages[-1].message
            for text in paced(live):
                here = tab.chat_id
                if here != live.chat_id:
                    if here != shown:  # that drawing may have come after the one of the chat opened meanwhile
                        yield draw(self.read(tab, identity))
                elif reply.state == "streaming":  # otherwise it had ended before it was looked at
                    reply.content = text
                    yield {self.chatbot: self._transcript(messages)}
                shown = here
        except ThumbloopError as error:
            failure = error.message
        finally:
            tab.drawn.discard(live.chat_id)
        yield from self._settle(tab, identity, self._drawing(tab, identity, failure))
        yield self.nothing

    @property
    def nothing(self) -> Update:
        """The end of a generator's event draws once more what it drew last, over whatever came since."""
        return {self.notice: gr.skip()}

    def _settle(
        self, tab: TabState, identity: Identity, draw: Drawing, also: Update | None = None
    ) -> Generator[Update, None, ChatState]:
        """Draw until nothing has changed while it was sent; returns what was drawn."""
        state = self.read(tab, identity)
        yield {**draw(state), **(also or {})}
        while (now := self.read(tab, identity)).mark != state.mark:
            if now.chat_id != state.chat_id:
                tab.consent_shown = None
            state = now
            yield draw(state)
        return state

    def _drawing(self, tab: TabState, identity: Identity, said: str | None = "") -> Drawing:
        """How to draw all of a state, with that notice."""

        def draw(state: ChatState) -> Update:
            with self.database.read() as session:
                chats = list_chats(session, identity.user_id, limit=tab.chats_shown + 1)
                answering = answering_version(session, state.chat).name
            more = len(chats) > tab.chats_shown
            return {
                self.chatbot: self._transcript(state.messages),
                self.side: chat_list(chats[: tab.chats_shown], state.chat_id, more, state.reply),
                self.header: header(identity, answering, accounts=self.settings.auth == "accounts"),
                self.notice: gr.skip() if said is None else notice(said),
                self.consent: self.consent_box(tab, state),
            }

        return draw

    def consent_box(self, tab: TabState, state: ChatState) -> Any:
        """Drawn where it changes only, or it would undo a click that is on its way."""
        if tab.consent_shown is state.consent:
            return gr.skip()
        tab.consent_shown = state.consent
        return state.consent

    def _transcript(self, messages: list[ShownMessage]) -> list[dict[str, Any]]:
        settings = self.settings
        return chatbot_messages(messages, OfferedTags(settings.vote_tags_up, settings.vote_tags))
