"""The chat page: one's chats, a streaming reply, stop, regenerate, edit, consent, and votes on every reply.

Knows Gradio, the chat service and storage. A vote does not pass through Gradio: its thumbs carry the
stored message's id to `PUT /api/v1/messages/{id}/vote` (assets/votes.js), where ownership is checked.
"""

from collections.abc import Iterator
from typing import Any

import gradio as gr

from app.auth import Identity, identity_of
from app.chat_service import ChatService
from app.live_reply import LiveReply
from app.pages.editing import TAKE_DRAFT, Draft, editing_banner
from app.pages.sidebar import SIDEBAR_SCRIPT, chat_list
from app.pages.transcript import Turn, chatbot_messages, header, notice
from app.pages.view import CHATS_SHOWN, View, paced, read_turns, streaming_reply
from app.pages.vote_details import OfferedTags
from app.services import Services
from storage.chats import draft_chat, get_chat, list_chats
from storage.consent import set_consent
from storage.errors import Conflict, InvalidInput, NotAllowed, NotFound, ThumbloopError
from storage.tables import Chat, Message
from storage.traffic import answering_version

MAX_THREADS = 256  # with Gradio's own 40, the 41st stream would wait for the first to end

Update = dict[Any, Any]

WELCOME = """<div class="tl-welcome"><h2>What would you like to talk about?</h2>
<p>Vote on the replies: every thumb teaches the next version of the model.</p></div>"""

HINT = "Enter sends, Shift+Enter starts a new line."


def build_chat_page(services: Services) -> gr.Blocks:
    page: gr.Blocks = ChatPage(services).blocks
    return page


class ChatPage:
    """The components and what happens on each event; one instance serves every tab."""

    def __init__(self, services: Services) -> None:
        self.services = services
        with gr.Blocks(
            title="Thumbloop", analytics_enabled=False, fill_height=True, fill_width=True
        ) as self.blocks:
            # No factory: Gradio would call it in an event of its own, which may come after on_load.
            self.view = gr.State(View())
            self._lay_out()
            self._wire()
        self.blocks.max_threads = MAX_THREADS
        self.blocks.queue(default_concurrency_limit=None, api_open=False)

    def _lay_out(self) -> None:
        with gr.Row(elem_id="tl-page", equal_height=True):
            with gr.Column(elem_id="tl-side", scale=0, min_width=260):
                self.new = gr.Button("New chat", elem_id="tl-new", size="md")
                self.side = gr.HTML(js_on_load=SIDEBAR_SCRIPT, elem_id="tl-chats", apply_default_css=False)
            with gr.Column(elem_id="tl-main", scale=1, min_width=320):
                self.header = gr.HTML(elem_id="tl-header", apply_default_css=False)
                self.chatbot = gr.Chatbot(
                    elem_id="tl-transcript",
                    show_label=False,
                    container=False,
                    height="100%",
                    scale=1,
                    group_consecutive_messages=False,
                    feedback_options=None,
                    buttons=[],
                    sanitize_html=True,
                    allow_tags=False,
                    allow_file_downloads=False,
                    placeholder=WELCOME,
                )
                with gr.Column(elem_id="tl-composer", scale=0):
                    self.notice = gr.HTML(elem_id="tl-notice", apply_default_css=False)
                    self.editing = editing_banner()
                    with gr.Row(elem_id="tl-entry", equal_height=False):
                        self.box = gr.Textbox(
                            label="Message",
                            show_label=False,
                            container=False,
                            placeholder="Write a message",
                            lines=1,
                            max_lines=8,
                            autofocus=True,
                            scale=1,
                            html_attributes=gr.InputHTMLAttributes(enterkeyhint="send"),
                            elem_id="tl-box",
                        )
                        self.send = gr.Button("Send", variant="primary", scale=0, min_width=84)
                        self.stop = gr.Button("Stop", variant="stop", scale=0, min_width=84, visible=False)
                    with gr.Row(elem_id="tl-under"):
                        self.again = gr.Button("Regenerate", size="sm", scale=0, min_width=110, visible=False)
                        self.consent = gr.Checkbox(
                            value=self.services.settings.consent_default,
                            interactive=False,  # until on_load says of which chat a click would be
                            label="May be used for training",
                            container=False,
                            scale=0,
                            min_width=200,
                            elem_id="tl-consent",
                        )
                        gr.HTML(HINT, elem_id="tl-hint", apply_default_css=False)

    def _wire(self) -> None:
        quiet: dict[str, Any] = {"show_progress": "hidden", "api_visibility": "private"}
        buttons = [self.send, self.stop, self.again]
        screen = [self.chatbot, self.side, self.header, self.notice, *buttons, self.consent]
        entry = [self.box, self.editing]
        sending = {"inputs": [*entry, self.consent, self.view], "outputs": [*screen, *entry], **quiet}
        # "multiple": a reply that still streams in one chat must not block sending in another.
        gr.on([self.box.submit, self.send.click], self.on_send, trigger_mode="multiple", **sending)
        self.again.click(self.on_regenerate, self.view, screen, trigger_mode="multiple", **quiet)
        given = [self.consent, self.view]
        # "always_last": a second click while the first is on its way counts, and is not dropped.
        self.consent.input(
            self.on_consent, given, [self.notice, self.consent], trigger_mode="always_last", **quiet
        )
        self.stop.click(self.on_stop, self.view, self.notice, **quiet)
        self.new.click(self.on_new, self.view, screen, **quiet)
        self.side.open_chat(self.on_open, self.view, screen, trigger_mode="multiple", **quiet)
        self.side.older_chats(self.on_older, self.view, screen, **quiet)
        self.side.show_branch(self.on_show, self.view, screen, **quiet)
        # Drawing on is an event of its own: the end of a generator's event draws once more what it drew
        # last, over whatever was opened since.
        loaded = self.blocks.load(
            self.on_load, [self.view, self.editing], [*screen, *entry], js=TAKE_DRAFT, **quiet
        )
        loaded.then(self.on_loaded, self.view, screen, **quiet)

    def on_load(self, view: View, kept: object, request: gr.Request) -> Update:
        """Open the chat that the address names, or the newest, or none for `?chat=new`, with its draft."""
        said = ""
        try:
            identity = self._identify(view, request)
        except (NotFound, NotAllowed):
            identity = identity_of(request, self.services)
            said = "You have no such chat. Here is a new one."
        if not request.query_params.get("chat"):
            with self.services.database.read() as session:
                newest = list_chats(session, identity.user_id, limit=1)
            # Whoever is quick has sent a message meanwhile, and its chat is open.
            view.chat_id = view.chat_id or (newest[0].id if newest else None)
        turns = self._turns(view.chat_id, identity)
        view.streaming = streaming_reply(turns)
        screen = self._screen(view, identity, said, turns)
        draft = Draft.read(kept)
        if draft.is_waiting(turns):
            screen |= {self.box: draft.text, self.editing: draft.edits}
        return screen

    def on_loaded(self, view: View, request: gr.Request) -> Iterator[Update]:
        yield {self.notice: gr.skip()}  # an event without any drawing would empty all it could draw
        yield from self._draw_on(view, self._identify(view, request), view.streaming)

    def on_open(self, view: View, event: gr.EventData, request: gr.Request) -> Iterator[Update]:
        try:
            identity = self._identify(view, request)
            with self.services.database.read() as session:
                view.chat_id = get_chat(session, str(event.chat), owner_id=identity.user_id).id
            view.through = None
        except ThumbloopError as error:
            yield {self.notice: notice(error.message)}
            return
        turns = self._turns(view.chat_id, identity)
        yield self._screen(view, identity, read=turns)
        yield from self._draw_on(view, identity, streaming_reply(turns))

    def on_new(self, view: View, request: gr.Request) -> Update:
        view.chat_id = view.consent = view.through = None
        return self._screen(view, self._identify(view, request))

    def on_older(self, view: View, request: gr.Request) -> Update:
        view.chats_shown += CHATS_SHOWN
        return self._screen(view, self._identify(view, request))

    def on_show(self, view: View, event: gr.EventData, request: gr.Request) -> Update:
        """Show the branch with that message."""
        before = view.through
        try:
            identity = self._identify(view, request)
            view.through = str(event.message)
            return self._screen(view, identity)
        except ThumbloopError as error:
            view.through = before
            return {self.notice: notice(error.message)}

    def on_send(
        self, text: str, edits: str, consent: bool, view: View, request: gr.Request
    ) -> Iterator[Update]:
        try:
            identity = self._identify(view, request)
            before = view.consent
            live = self._send(view, identity, text, edits or None, consent is True)
        except ThumbloopError as error:
            yield {self.notice: notice(error.message)}  # and the text stays in the box
            return
        if view.consent not in (before, None):  # clicked while there was no chat to store it with
            yield self.on_consent(view.consent is True, view, request)
        yield from self._draw(view, identity, live, {self.box: "", self.editing: ""})

    def on_regenerate(self, view: View, request: gr.Request) -> Iterator[Update]:
        try:
            identity = self._identify(view, request)
            last = self._last_message(view, identity)
            if last is None:
                raise Conflict("There is no reply to regenerate yet.")
            live = self.services.chat_service.regenerate(identity.user_id, last.id)
        except ThumbloopError as error:
            yield {self.notice: notice(error.message)}
            return
        yield from self._draw(view, identity, live)

    def on_consent(self, given: bool, view: View, request: gr.Request) -> Update:
        try:
            identity = self._identify(view, request)
            view.consent = given is True  # first, for a message that is being sent meanwhile
            if view.chat_id is not None:
                with self.services.database.write() as session:
                    chat = get_chat(session, view.chat_id, owner_id=identity.user_id)
                    set_consent(session, chat, view.consent, by=identity.name)
        except ThumbloopError as error:
            return {self.notice: notice(error.message), self.consent: gr.Checkbox(value=given is not True)}
        return {self.notice: ""}

    def on_stop(self, view: View, request: gr.Request) -> str:
        try:
            identity = self._identify(view, request)
            last = self._last_message(view, identity)
            if last is not None:
                self.services.chat_service.cancel(last.id, identity.user_id)
        except ThumbloopError as error:
            return notice(error.message)
        return ""

    def _identify(self, view: View, request: gr.Request) -> Identity:
        """The person, with the chat open that their address names if this tab is not known yet."""
        identity = identity_of(request, self.services)
        named = request.query_params.get("chat", "")
        try:
            if not view.loaded and named and named != "new":
                with self.services.database.read() as session:
                    view.chat_id = get_chat(session, named, owner_id=identity.user_id).id
        finally:
            view.loaded = True  # not before: another handler may look meanwhile
        return identity

    def _send(self, view: View, identity: Identity, text: str, edits: str | None, consent: bool) -> LiveReply:
        """`consent` is what the page shows, maybe of the chat before: a new one needs both to say yes."""
        service: ChatService = self.services.chat_service
        if view.chat_id is not None:
            last = self._last_message(view, identity) if view.through and not edits else None
            parent_id = last.id if last is not None else None  # without one it goes below the newest message
            return service.send(identity.user_id, view.chat_id, text, edits=edits, parent_id=parent_id)
        if not text.strip():
            raise InvalidInput("Write a message first.", field="content")
        consent = consent and self._consent(view, None)
        with self.services.database.read() as session:
            prompt = self.services.settings.system_prompt
            chat = draft_chat(session, identity.user_id, system_prompt=prompt, consent=consent)
        live = service.begin(chat, [], text)
        view.chat_id = chat.id
        return live

    def _consent(self, view: View, chat: Chat | None) -> bool:
        if chat is not None:
            return chat.consent
        return self.services.settings.consent_default if view.consent is None else view.consent

    def _draw_on(self, view: View, identity: Identity, reply: Message | None) -> Iterator[Update]:
        """Go on with a reply that the screen shows as under way, as it began in another tab."""
        if reply is None or reply.chat_id != view.chat_id or reply.chat_id in view.drawn:
            return
        live = self.services.chat_service.live(reply)
        if live is not None:
            yield from self._draw(view, identity, live)
        else:  # it ended since the screen was read
            yield self._screen(view, identity)

    def _draw(
        self, view: View, identity: Identity, live: LiveReply, first: Update | None = None
    ) -> Iterator[Update]:
        """Draw a reply while it streams; `first` goes with the first drawing.

        A reply goes on, undrawn, while the tab shows another chat, and is drawn again on return.
        """
        view.drawn.add(live.chat_id)
        view.through = None  # the reply is the newest message, so its branch is shown
        failure = ""
        try:
            yield {**self._screen(view, identity), **(first or {})}
            turns = self._turns(live.chat_id, identity)
            shown = True
            for text in paced(live):
                if view.chat_id == live.chat_id:
                    turns[-1].message.content = text
                    yield {self.chatbot: self._shown(turns)}
                elif shown:
                    # The last drawing may have overtaken that of the chat which was opened meanwhile.
                    yield self._screen(view, identity)
                shown = view.chat_id == live.chat_id
        except ThumbloopError as error:
            failure = error.message
        finally:
            view.drawn.discard(live.chat_id)
        yield self._screen(view, identity, failure)

    def _last_message(self, view: View, identity: Identity) -> Message | None:
        turns = self._turns(view.chat_id, identity, view.through)
        return turns[-1].message if turns else None

    def _turns(self, chat_id: str | None, identity: Identity, through: str | None = None) -> list[Turn]:
        if chat_id is None:
            return []
        with self.services.database.read() as session:
            return read_turns(session, chat_id, identity.user_id, through)

    def _shown(self, turns: list[Turn]) -> list[dict[str, Any]]:
        settings = self.services.settings
        return chatbot_messages(turns, OfferedTags(settings.vote_tags_up, settings.vote_tags))

    def _screen(
        self, view: View, identity: Identity, said: str = "", read: list[Turn] | None = None
    ) -> Update:
        """Everything that depends on which chat is open, as the database has it; `read` are its turns."""
        turns = self._turns(view.chat_id, identity, view.through) if read is None else read
        with self.services.database.read() as session:
            chats = list_chats(session, identity.user_id, limit=view.chats_shown + 1)
            chat = get_chat(session, view.chat_id) if view.chat_id is not None else None
            answering = answering_version(session, chat).name
        last = turns[-1].message if turns else None
        streaming = streaming_reply(turns) is not None
        return {
            self.chatbot: self._shown(turns),
            self.side: chat_list(chats[: view.chats_shown], view.chat_id, len(chats) > view.chats_shown),
            self.header: header(identity, answering, accounts=self.services.settings.auth == "accounts"),
            self.notice: notice(said),
            self.send: gr.Button(visible=not streaming),
            self.stop: gr.Button(visible=streaming),
            self.consent: gr.Checkbox(value=self._consent(view, chat), interactive=True),
            self.again: gr.Button(visible=last is not None and last.role == "assistant" and not streaming),
        }
