"""The chat page: a person's chats, streaming replies, stop, regenerate, edit, consent, and votes.

Votes do not pass through Gradio: assets/votes.js sends them with the stored message's id to
`PUT /api/v1/messages/{id}/vote`, where ownership is checked.
"""

import functools
import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gradio as gr
from pydantic import BaseModel, ValidationError

from app.chat.live_reply import LiveReply
from app.chat.service import ChatService
from app.pages.blocks import Page, chosen
from app.pages.chat.days import known_zone
from app.pages.chat.markdown import DELIMITERS
from app.pages.chat.render import ChatRenderer, Update
from app.pages.chat.tab_state import CHATS_SHOWN, MESSAGES_SHOWN, TabState
from app.pages.chat.transcript import ShownMessage
from app.pages.html import asset, notice
from app.services import Services
from app.web.auth import Identity, identity_of
from app.web.languages import language_of
from storage.chats.chats import draft_chat, get_chat, list_chats, pin_chat, rename_chat, short_title
from storage.errors import Conflict, InvalidInput, NotAllowed, NotFound, ThumbloopError
from storage.privacy.consent import delete_chat, restore_chat, set_consent

MAX_THREADS = 256  # with Gradio's default of 40, the 41st stream would wait for another to end

SEARCH = '<input type="search" placeholder="@@search@@" aria-label="@@search_chats@@" maxlength="200">'

EDITING = """{{#if value}}<div class="tl-editing" role="status">
<span>@@editing@@</span>
<button type="button" data-leave-edit>@@cancel@@</button></div>{{/if}}"""

# The inputs of the page's load event: its state, and the draft that the tab kept (assets/composer.js) with
# the browser's time zone.
TAKE_DRAFT = """() => [null, {
  ...JSON.parse(sessionStorage.getItem('tl-draft') ?? '{}'),
  zone: Intl.DateTimeFormat().resolvedOptions().timeZone,
}]"""


def shows_errors(handler: Callable[..., Iterator[Update]]) -> Callable[..., Iterator[Update]]:
    """Let an event handler of the page end with the error's message as the notice."""

    @functools.wraps(handler)
    def shown(self: "ChatPage", *arguments: Any) -> Iterator[Update]:
        try:
            yield from handler(self, *arguments)
        except ThumbloopError as error:
            tab = next(one for one in arguments if isinstance(one, TabState))
            yield {self.notice: notice(tab.language.error(error))}

    return shown


class ChatPage:
    """The components and the event handlers; one instance serves every browser tab."""

    def __init__(self, services: Services) -> None:
        self.services = services
        self._beginnings = threading.Lock()  # guards `beginning` of every tab
        with Page(
            title="Thumbloop", analytics_enabled=False, fill_height=True, fill_width=True
        ) as self.blocks:
            # Not a factory: Gradio would call it in a separate event, which may come after on_load.
            self.tab = gr.State(TabState())
            self._lay_out()
            self._wire()
        self.blocks.max_threads = MAX_THREADS
        self.blocks.queue(default_concurrency_limit=None, api_open=False)

    def _lay_out(self) -> None:
        def html(**options: Any) -> gr.HTML:
            return gr.HTML(apply_default_css=False, **options)

        with gr.Row(elem_id="tl-page", equal_height=True):
            with gr.Column(elem_id="tl-side", scale=0, min_width=260):
                self.new = gr.Button("@@new_chat@@", elem_id="tl-new", size="md")
                html(value=SEARCH, elem_id="tl-search")
                self.side = html(js_on_load=asset("sidebar.js"), elem_id="tl-chats")
            with gr.Column(elem_id="tl-main", scale=1, min_width=320):
                if self.services.demonstration:
                    html(value="@@demonstration@@", elem_id="tl-demonstration")
                self.header = html(elem_id="tl-header")
                self.chatbot = gr.Chatbot(
                    elem_id="tl-transcript",
                    show_label=False,
                    container=False,
                    height="100%",
                    scale=1,
                    group_consecutive_messages=False,
                    feedback_options=None,
                    autoscroll=False,  # see assets/following.js
                    buttons=[],
                    sanitize_html=True,
                    allow_tags=False,
                    allow_file_downloads=False,
                    latex_delimiters=DELIMITERS,
                )
                self.welcome = html(elem_id="tl-welcome")
                with gr.Column(elem_id="tl-composer", scale=0):
                    self.notice = html(elem_id="tl-notice")
                    # Its value is the id of the message being edited, or empty.
                    self.editing = html(
                        value="", html_template=EDITING, js_on_load=asset("composer.js"), elem_id="tl-editing"
                    )
                    # Its value tells the composer which message was stored.
                    self.sent = html(
                        value="",
                        html_template="<i hidden></i>",
                        js_on_load=asset("sent.js"),
                        elem_id="tl-sent",
                    )
                    with gr.Column(elem_id="tl-card"):
                        self.box = gr.Textbox(
                            label="@@message@@",
                            show_label=False,
                            container=False,
                            placeholder="@@write_message@@",
                            lines=1,
                            max_lines=8,
                            autofocus=True,
                            html_attributes=gr.InputHTMLAttributes(enterkeyhint="send"),
                            elem_id="tl-box",
                        )
                        with gr.Row(elem_id="tl-under"):
                            self.consent = gr.Checkbox(
                                value=self.services.settings.consent_default,
                                label="@@consent@@",
                                container=False,
                                scale=0,
                                min_width=0,
                                elem_id="tl-consent",
                            )
                            html(value="@@hint@@", elem_id="tl-hint")
                            self.send = gr.Button("@@send@@", variant="primary", scale=0, elem_id="tl-send")
                            self.stop = gr.Button("@@stop@@", variant="primary", scale=0, elem_id="tl-stop")

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        self.renderer = ChatRenderer(
            self.services.settings,
            self.services.database,
            self.services.chat_service,
            chatbot=self.chatbot,
            side=self.side,
            header=self.header,
            welcome=self.welcome,
            notice=self.notice,
            consent=self.consent,
        )
        drawn = self.renderer.components
        entry = [self.box, self.editing]
        sending = {"inputs": [*entry, self.consent, self.tab], "outputs": [*drawn, self.sent], **quiet}
        # "multiple": a reply that still streams in one chat must not block sending in another.
        gr.on([self.box.submit, self.send.click], self.on_send, trigger_mode="multiple", **sending)
        self.side.regenerate(self.on_regenerate, self.tab, drawn, trigger_mode="multiple", **quiet)
        given = [self.consent, self.tab]
        # "always_last": a second click during the first one's event is handled afterwards, not dropped.
        self.consent.input(
            self.on_consent, given, [self.notice, self.consent], trigger_mode="always_last", **quiet
        )
        self.stop.click(self.on_stop, self.tab, self.notice, **quiet)
        self.new.click(self.on_new, self.tab, drawn, trigger_mode="multiple", **quiet)
        self.side.open_chat(self.on_open, self.tab, drawn, trigger_mode="multiple", **quiet)
        self.side.older_chats(self.on_older, self.tab, drawn, **quiet)
        self.side.earlier_messages(self.on_earlier, self.tab, drawn, **quiet)
        self.side.search_chats(self.on_search, self.tab, drawn, trigger_mode="multiple", **quiet)
        self.side.look_again(self.on_look, self.tab, drawn, **quiet)
        self.side.rename_chat(self.on_rename, self.tab, drawn, **quiet)
        self.side.pin_chat(self.on_pin, self.tab, drawn, **quiet)
        self.side.change_chat(self.on_settings, self.tab, drawn, **quiet)
        self.side.delete_chat(self.on_delete, self.tab, drawn, **quiet)
        self.side.restore_chat(self.on_restore, self.tab, drawn, **quiet)
        self.side.show_branch(self.on_show, self.tab, drawn, trigger_mode="multiple", **quiet)
        loading = {"inputs": [self.tab, self.editing], "outputs": [*drawn, *entry], **quiet}
        self.blocks.load(self.on_load, js=TAKE_DRAFT, **loading)

    def on_load(self, tab: TabState, kept: object, request: gr.Request) -> Iterator[Update]:
        """Open the chat that the URL names, or the newest, or none for `?chat=new`, and restore the draft."""
        tab.zone = known_zone(kept.get("zone")) if isinstance(kept, dict) else tab.zone
        message = None  # keeps a notice that an earlier event has drawn
        try:
            identity = self._identify(tab, request)
        except (NotFound, NotAllowed):
            identity = identity_of(request, self.services)
            message = tab.language("no_such_chat")
        if not request.query_params.get("chat"):
            with self.services.database.read() as session:
                newest = list_chats(session, identity.user_id, limit=1)
            # A message may have been sent already, which opened its chat.
            tab.chat_id = tab.chat_id or (newest[0].id if newest else None)
        messages = self.renderer.read(tab, identity).messages
        draft = unsent_draft(kept, messages, self.renderer.drafter(identity))
        entry: Update = {self.box: draft[0], self.editing: draft[1]} if draft else {}
        yield from self.renderer.follow(tab, identity, message, entry)

    @shows_errors
    def on_open(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        identity = self._identify(tab, request)
        with self.services.database.read() as session:
            chat = get_chat(session, chosen(event, "chat"), owner_id=identity.user_id)
        tab.through = tab.consent_shown = None  # first: another event may read them meanwhile
        tab.messages_shown = MESSAGES_SHOWN
        tab.chat_id = chat.id
        yield from self.renderer.follow(tab, identity)

    def on_new(self, tab: TabState, request: gr.Request) -> Iterator[Update]:
        identity = self._identify(tab, request)
        tab.chat_id = tab.consent = tab.consent_shown = tab.through = tab.wished = None
        tab.messages_shown = MESSAGES_SHOWN
        yield from self.renderer.show(tab, identity)

    def on_older(self, tab: TabState, request: gr.Request) -> Iterator[Update]:
        tab.chats_shown += CHATS_SHOWN
        yield from self.renderer.show(tab, self._identify(tab, request))

    def on_earlier(self, tab: TabState, request: gr.Request) -> Iterator[Update]:
        """Show as many messages again; their drawing costs the more the more there are."""
        tab.messages_shown *= 2
        yield from self.renderer.show(tab, self._identify(tab, request))

    @shows_errors
    def on_search(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        tab.search = chosen(event, "text")[:200]
        yield from self.renderer.show(tab, self._identify(tab, request))

    @shows_errors
    def on_look(self, tab: TabState, request: gr.Request) -> Iterator[Update]:
        """The tab has the focus again: draw its chat if another tab changed it, and follow its reply."""
        identity = self._identify(tab, request)
        if self.renderer.read(tab, identity).seen != tab.seen:
            yield from self.renderer.follow(tab, identity, None)
        yield self.renderer.nothing

    @shows_errors
    def on_rename(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        identity = self._identify(tab, request)
        with self.services.database.write() as session:
            chat = get_chat(session, chosen(event, "chat"), owner_id=identity.user_id)
            rename_chat(session, chat.id, short_title(chosen(event, "title")))
        yield from self.renderer.show(tab, identity)

    @shows_errors
    def on_pin(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        """Keep the chat on top of the list, or no longer."""
        identity = self._identify(tab, request)
        with self.services.database.write() as session:
            chat = get_chat(session, chosen(event, "chat"), owner_id=identity.user_id)
            pin_chat(session, chat.id, chat.pinned_at is None)
        yield from self.renderer.show(tab, identity)

    @shows_errors
    def on_settings(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        """Change the open chat's sampling, or what the next chat begins with."""
        identity = self._identify(tab, request)
        if not self.services.settings.chat_settings:
            raise InvalidInput("The settings of chats cannot be chosen here.")
        wished = chat_settings(chosen(event, "settings"), self.services.settings.max_message_chars)
        wished["sampling"] = self.services.chat_service.check_sampling(wished["sampling"])
        if tab.chat_id is None:
            tab.wished = wished
        else:
            with self.services.database.write() as session:
                chat = get_chat(session, tab.chat_id, owner_id=identity.user_id)
                chat.sampling = wished["sampling"] or None
        yield from self.renderer.show(tab, identity)

    @shows_errors
    def on_delete(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        identity = self._identify(tab, request)
        with self.services.database.write() as session:
            chat = get_chat(session, chosen(event, "chat"), owner_id=identity.user_id)
            delete_chat(session, chat.id)
        tab.deleted = chat.id, chat.title
        if tab.chat_id == chat.id:
            yield from self.on_new(tab, request)
        else:
            yield from self.renderer.show(tab, identity)

    @shows_errors
    def on_restore(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        identity = self._identify(tab, request)
        with self.services.database.write() as session:
            chat = restore_chat(session, chosen(event, "chat"), owner_id=identity.user_id)
        tab.through = tab.consent_shown = tab.deleted = None
        tab.messages_shown = MESSAGES_SHOWN
        tab.chat_id = chat.id
        yield from self.renderer.show(tab, identity)

    @shows_errors
    def on_show(self, tab: TabState, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        """Show the branch that contains the message."""
        before, message_id = tab.through, chosen(event, "message")
        identity = self._identify(tab, request)
        try:
            tab.through = message_id
            yield from self.renderer.show(tab, identity)
        except ThumbloopError:
            if tab.through == message_id:
                tab.through = before
            raise

    @shows_errors
    def on_send(
        self, text: str | None, edits: object, consent: object, tab: TabState, request: gr.Request
    ) -> Iterator[Update]:
        """Send the message. If it is refused, its text stays in the box."""
        text, edits = text or "", str(edits or "")
        identity = self._identify(tab, request)
        before = tab.consent
        live = self._send(tab, identity, text, edits or None, consent is True)
        if tab.consent not in (before, None):  # clicked while there was no chat to store it with
            yield from self.on_consent(tab.consent is True, tab, request)
        stored = json.dumps({"id": live.user_message_id, "text": text, "edits": edits})
        yield from self.renderer.stream(tab, identity, live, {self.sent: stored})

    @shows_errors
    def on_regenerate(self, tab: TabState, request: gr.Request) -> Iterator[Update]:
        identity = self._identify(tab, request)
        last = self.renderer.read(tab, identity).last
        if last is None:
            raise Conflict("There is no reply to regenerate yet.")
        live = self.services.chat_service.regenerate(identity.user_id, last.id)
        yield from self.renderer.stream(tab, identity, live)

    def on_consent(self, given: bool, tab: TabState, request: gr.Request) -> Iterator[Update]:
        try:
            identity = self._identify(tab, request)
            # First, so that a message being sent meanwhile sees it.
            tab.consent = tab.consent_shown = given is True
            if tab.chat_id is not None:
                with self.services.database.write() as session:
                    chat = get_chat(session, tab.chat_id, owner_id=identity.user_id)
                    set_consent(session, chat, given is True, by=identity.user_id)
        except ThumbloopError as error:
            tab.consent_shown = given is not True
            yield {self.notice: notice(tab.language.error(error)), self.consent: given is not True}
        else:
            # A drawing of the earlier state may have overwritten the click.
            state = self.renderer.read(tab, identity)
            yield {self.notice: "", self.consent: self.renderer.consent_box(tab, state)}
        yield self.renderer.nothing

    @shows_errors
    def on_stop(self, tab: TabState, request: gr.Request) -> Iterator[Update]:
        identity = self._identify(tab, request)
        last = self.renderer.read(tab, identity).last
        if last is not None:
            self.services.chat_service.cancel(last.id, identity.user_id)
        yield {self.notice: ""}
        yield self.renderer.nothing

    def _identify(self, tab: TabState, request: gr.Request) -> Identity:
        """The person; for a tab that is not loaded yet, also open the chat that its URL names."""
        identity = identity_of(request, self.services)
        tab.language = language_of(request.headers, request.cookies, self.services.settings)
        named = request.query_params.get("chat", "")
        try:
            if not tab.loaded and named and named != "new":
                with self.services.database.read() as session:
                    tab.chat_id = get_chat(session, named, owner_id=identity.user_id).id
        finally:
            tab.loaded = True  # not earlier: another handler may read it meanwhile
        return identity

    def _send(
        self, tab: TabState, identity: Identity, text: str, edits: str | None, consent: bool
    ) -> LiveReply:
        """`consent` is what the page shows, perhaps the previous chat's. A new chat has consent only if the
        tab's state agrees.
        """
        service: ChatService = self.services.chat_service
        if tab.chat_id is not None:
            last = self.renderer.read(tab, identity).last if tab.through and not edits else None
            parent_id = last.id if last is not None else None  # without one it goes below the newest message
            return service.send(identity.user_id, tab.chat_id, text, edits=edits, parent_id=parent_id)
        if not text.strip():
            raise InvalidInput("Write a message first.", field="content")
        with self._beginning(tab):
            consent = consent and self.renderer.read(tab, identity).consent
            with self.services.database.read() as session:
                first = {"system_prompt": self.services.settings.system_prompt, **(tab.wished or {})}
                chat = draft_chat(session, identity.user_id, consent=consent, **first)
            live = service.begin(chat, [], text)
            tab.chat_id, tab.wished = chat.id, None
            return live

    @contextmanager
    def _beginning(self, tab: TabState) -> Iterator[None]:
        """Keep two messages sent at once from beginning two chats; raises Conflict for the second."""
        with self._beginnings:
            if tab.beginning or tab.chat_id is not None:
                raise Conflict("A chat has just begun on this page; look at it and send again.")
            tab.beginning = True
        try:
            yield
        finally:
            tab.beginning = False


def chat_settings(text: str, longest_prompt: int) -> dict[str, Any]:
    """What assets/settings.js sends; raises InvalidInput."""
    try:
        wished = _ChatSettings.model_validate_json(text).model_dump(exclude_none=True)
    except ValidationError as error:
        raise InvalidInput("These are no settings of a chat; reload the page.", field="settings") from error
    if len(wished.get("system_prompt", "")) > longest_prompt:
        raise InvalidInput("The system prompt is too long.", field="system_prompt")
    return wished


class _Sampling(BaseModel, extra="forbid"):
    temperature: float | None = None
    top_p: float | None = None
    max_new_tokens: int | None = None


class _ChatSettings(BaseModel, extra="forbid"):
    system_prompt: str | None = None
    sampling: _Sampling = _Sampling()


def unsent_draft(kept: object, messages: Sequence[ShownMessage], person: str = "") -> tuple[str, str] | None:
    """The text of the draft that the tab kept, and the id of the message that it edits, or "".

    None if the draft is empty, was sent, or is another person's. `kept` is what assets/composer.js stored:
    also `after`, the last message sent before. `messages` are those of the open chat.
    """
    draft = kept if isinstance(kept, dict) and (kept.get("person") or "") == person else {}
    text, edits, after = (str(draft.get(name) or "") for name in ("text", "edits", "after"))
    sent = [item.message for item in messages if item.message.role == "user"]
    arrived = bool(sent) and sent[-1].id != after and sent[-1].content == text
    return None if arrived or not text else (text, edits)
