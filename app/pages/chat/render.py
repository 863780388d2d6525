"""Draws the open chat on the chat page, and a reply while it streams.

Gradio may send the updates of one tab's events in any order, but it resumes a generator only after sending
its last update. So after each drawing the renderer checks whether the tab's state has changed, and if so
draws the current state again.
"""

import threading
import time
from collections import Counter
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import gradio as gr

from app.chat.live_reply import LiveReply
from app.chat.service import ChatService
from app.pages.chat.days import by_day
from app.pages.chat.tab_state import ChatState, TabState, paced, read_messages, read_state
from app.pages.chat.transcript import ShownMessage, chatbot_messages, offered_tags
from app.pages.html import notice, render
from app.serving.reply import Queued
from app.web.auth import Identity
from storage.chats.chats import list_chats
from storage.db.database import Database
from storage.db.tables import now
from storage.errors import ThumbloopError
from storage.registry.canaries import answering_version
from storage.registry.lineage import learned_from
from storage.settings import Settings

# Each tab that draws a stream costs the server as much as a reader of its own.
MOST_FOLLOWERS = 12
WATCH_SECONDS = 1.0  # between two looks at a reply that another server writes
SAMPLED = ("temperature", "top_p", "max_new_tokens")  # what a chat may have of its own
Update = dict[Any, Any]
Drawing = Callable[[ChatState], Update]


@dataclass(frozen=True)
class ChatRenderer:
    """The components that depend on the open chat, and their updates."""

    settings: Settings
    database: Database
    chat_service: ChatService
    chatbot: gr.Chatbot
    side: gr.HTML
    header: gr.HTML
    welcome: gr.HTML
    notice: gr.HTML
    consent: gr.Checkbox
    # How many tabs draw a reply while it streams, by person.
    followers: Counter[str] = field(default_factory=Counter, compare=False)
    counting: threading.Lock = field(default_factory=threading.Lock, compare=False)

    def drafter(self, identity: Identity) -> str:
        """Whose a draft is: where people sign in, nobody else at the same screen gets it."""
        return identity.user_id if self.settings.auth == "accounts" else ""

    @property
    def components(self) -> list[Any]:
        return [self.chatbot, self.side, self.header, self.welcome, self.notice, self.consent]

    def read(self, tab: TabState, identity: Identity) -> ChatState:
        """Read the chat that the tab shows from the database. Raises NotFound, NotAllowed."""
        with self.database.read() as session:
            return read_state(session, tab, identity.user_id, self.settings.consent_default)

    def show(self, tab: TabState, identity: Identity) -> Iterator[Update]:
        """Draw the current state, and end the event."""
        yield from self._settle(tab, identity, self._drawing(tab, identity))
        yield self.nothing

    def follow(
        self, tab: TabState, identity: Identity, message: str | None = "", also: Update | None = None
    ) -> Iterator[Update]:
        """Like `show`, and then stream a reply under way that another tab or server began.

        `message` is the notice; None keeps the present one. `also` is added to the first drawing.
        """
        state = yield from self._settle(tab, identity, self._drawing(tab, identity, message), also)
        if state.streaming is not None and state.streaming.chat_id not in tab.drawn:
            live = self.chat_service.live(state.streaming)
            if live is not None and self.followers[identity.user_id] >= MOST_FOLLOWERS:
                yield {self.notice: notice(tab.language("too_many_tabs"))}
            elif live is not None:
                yield from self.stream(tab, identity, live)
            else:  # it ended since, or another server writes it
                yield from self._watch(tab, identity, state.streaming.chat_id)
        yield self.nothing

    def _watch(self, tab: TabState, identity: Identity, chat_id: str) -> Iterator[Update]:
        """Draw what is stored of a reply of another server, until it is over or the tab moves on."""
        tab.drawn.add(chat_id)
        self._count(identity, 1)
        try:
            state = yield from self._settle(tab, identity, self._drawing(tab, identity, None))
            while state.streaming is not None and state.chat_id == chat_id:
                time.sleep(WATCH_SECONDS)
                state = self.read(tab, identity)
                if state.chat_id == chat_id and state.streaming is not None:
                    yield {self.chatbot: self._transcript(state.messages, tab)}
        finally:
            tab.drawn.discard(chat_id)
            self._count(identity, -1)
        yield from self._settle(tab, identity, self._drawing(tab, identity, None))

    def stream(
        self, tab: TabState, identity: Identity, live: LiveReply, also: Update | None = None
    ) -> Iterator[Update]:
        """Draw a reply while it streams, and end the event; `also` is added to the first drawing.

        While the tab shows another chat, the reply goes on but is not drawn.
        """
        tab.drawn.add(live.chat_id)
        self._count(identity, 1)
        tab.through = None  # the reply is the newest message, so its branch is shown
        failure = ""
        try:
            draw = self._drawing(tab, identity)
            shown = (yield from self._settle(tab, identity, draw, also)).chat_id
            with self.database.read() as session:
                messages = read_messages(session, live.chat_id, identity.user_id)
            reply = messages[-1].message
            for parts in paced(live):
                here = tab.chat_id
                if here != live.chat_id:
                    if here != shown:  # the last drawing may have overwritten the chat opened since
                        yield draw(self.read(tab, identity))
                elif reply.state == "streaming":  # otherwise it had ended before it was read
                    queued = parts if isinstance(parts, Queued) else None
                    if not isinstance(parts, Queued):
                        reply.reasoning, reply.content = parts
                    yield {self.chatbot: self._transcript(messages, tab, queued)}
                shown = here
        except ThumbloopError as error:
            failure = tab.language.error(error)
        finally:
            tab.drawn.discard(live.chat_id)
            self._count(identity, -1)
        yield from self._settle(tab, identity, self._drawing(tab, identity, failure))
        yield self.nothing

    def _count(self, identity: Identity, change: int) -> None:
        with self.counting:
            self.followers[identity.user_id] += change
            if self.followers[identity.user_id] <= 0:
                del self.followers[identity.user_id]

    @property
    def nothing(self) -> Update:
        """An empty update to end with: at the end of a generator Gradio sends its last update again."""
        return {self.notice: gr.skip()}

    def _settle(
        self, tab: TabState, identity: Identity, draw: Drawing, also: Update | None = None
    ) -> Generator[Update, None, ChatState]:
        """Draw until the state did not change while it was sent; returns the state drawn."""
        state = self.read(tab, identity)
        tab.seen = state.seen
        yield {**draw(state), **(also or {})}
        while (current := self.read(tab, identity)).mark != state.mark:
            if current.chat_id != state.chat_id:
                tab.consent_shown = None
            state = current
            tab.seen = state.seen
            yield draw(state)
        return state

    def _drawing(self, tab: TabState, identity: Identity, message: str | None = "") -> Drawing:
        """A function that draws a state with this notice."""

        def draw(state: ChatState) -> Update:
            with self.database.read() as session:
                listed = partial(list_chats, session, identity.user_id, limit=tab.chats_shown + 1)
                # What is searched is not listed apart.
                chats = listed(search=tab.search) if tab.search else listed(pinned=False)
                pinned = [] if tab.search else listed(pinned=True)
                version = answering_version(session, state.chat)
                learned = learned_from(session, version, identity.user_id)
            answering = version.name
            accounts = self.settings.auth == "accounts"
            return {
                self.chatbot: self._transcript(state.messages, tab),
                self.side: render(
                    "chat/chats.html",
                    say=tab.language,
                    groups=({"pinned": pinned} if pinned else {})
                    | by_day(chats[: tab.chats_shown], tab.zone, now()),
                    current=state.chat_id,
                    more=len(chats) > tab.chats_shown,
                    reply=state.reply,
                    person=self.drafter(identity),
                    deleted=tab.deleted,
                    search=tab.search,
                    titling=self.settings.model_titles and state.titling,
                ),
                self.header: render(
                    "chat/header.html",
                    say=tab.language,
                    identity=identity,
                    answering=answering,
                    learned=learned,
                    accounts=accounts,
                    settings=self._chat_settings(tab, state) if self.settings.chat_settings else None,
                    begun=state.chat is not None,
                    own=self._is_own(tab, state),
                ),
                self.welcome: render(
                    "chat/welcome.html",
                    say=tab.language,
                    begun=bool(state.messages),
                    answering=answering,
                    starters=self.settings.starter_prompts,
                ),
                self.notice: gr.skip() if message is None else notice(message),
                self.consent: self.consent_box(tab, state),
            }

        return draw

    def _chat_settings(self, tab: TabState, state: ChatState) -> dict[str, Any]:
        """What assets/settings.js shows."""
        settings, wished = self.settings, tab.wished or {}
        prompt = wished.get("system_prompt", settings.system_prompt)
        usual = self.chat_service.default_sampling().to_dict()
        return {
            "system_prompt": state.chat.system_prompt if state.chat else prompt,
            "sampling": (state.chat.sampling if state.chat else wished.get("sampling")) or {},
            "usual": {name: usual[name] for name in SAMPLED},
            "longest_prompt": settings.max_message_chars,
        }

    def _is_own(self, tab: TabState, state: ChatState) -> bool:
        """Whether the chat's settings are not those of the server."""
        shown = self._chat_settings(tab, state)
        return bool(shown["sampling"]) or shown["system_prompt"] != self.settings.system_prompt

    def consent_box(self, tab: TabState, state: ChatState) -> Any:
        """The box's update, only if it changes: otherwise it could undo a click on its way here."""
        if tab.consent_shown is state.consent:
            return gr.skip()
        tab.consent_shown = state.consent
        return state.consent

    def _transcript(
        self, messages: list[ShownMessage], tab: TabState, queued: Queued | None = None
    ) -> list[dict[str, Any]]:
        settings = self.settings
        tags = offered_tags(settings.vote_tags_up, settings.vote_tags)
        shown: dict[str, Any] = {"say": tab.language, "queued": queued, "most": tab.messages_shown}
        return chatbot_messages(messages, tags, settings.compare_share, **shown)
