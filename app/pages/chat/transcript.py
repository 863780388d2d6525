"""Turns stored messages into Gradio Chatbot messages, and makes the page's header.

Pure functions. All text by people and models is escaped here or passed to Gradio's sanitizer as Markdown.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from app.pages.chat.vote_details import NO_TAGS, OfferedTags, vote_details
from app.web.auth import Identity
from storage.chats.votes import CurrentVote
from storage.db.tables import Message

ChatbotMessage = dict[str, Any]

# Fenced blocks (an unclosed one runs to the end, as it does while streaming), then inline code.
CODE = re.compile(
    r"(^[ \t>]*(`{3,}|~{3,}).*?(?:^[ \t>]*\2|\Z)|(?<!`)(`+)(?!`)(?:[^\n]|\n(?!\s*\n))+?(?<!`)\3(?!`))",
    re.DOTALL | re.MULTILINE,
)
TAG = re.compile(r"<(?=[A-Za-z/!?])")

ICON = '<svg viewBox="0 0 24 24" aria-hidden="true"><path d="{}"/></svg>'
THUMB = ICON.format(
    "M7 10v11H3V10h4Zm3 11V10l4-7.5c1.6 0 2.5 1.1 2.5 2.6 0 1.4-.9 3-1.2 3.9h4.2c1.2 0 2 1 1.7 2.2l-1.6 8"
    "c-.2 1-1 1.8-2 1.8H10Z"
)
PENCIL = ICON.format("M4 20l1-4.5L16 4.5l3.5 3.5L8.5 19ZM13.5 7l3.5 3.5")
COPY = ICON.format("M9 9h11v12H9zM5 15H4V3h11v1")
LEFT = ICON.format("M15 5l-7 7 7 7")
RIGHT = ICON.format("M9 5l7 7-7 7")
TYPING = (
    '<span class="tl-typing" role="status" aria-label="The reply is on its way"><i></i><i></i><i></i></span>'
)


@dataclass(frozen=True)
class ShownMessage:
    """One message with what the page shows about it; `version` is a name such as v2."""

    message: Message
    version: str | None = None
    vote: CurrentVote | None = None
    alternatives: Sequence[str] = ()  # ids of all messages at its position, itself included, oldest first


def chatbot_messages(messages: Iterable[ShownMessage], tags: OfferedTags = NO_TAGS) -> list[ChatbotMessage]:
    """The Chatbot's value: a reply is its text, then a bar with the thumbs and the version.

    `tags` are the reasons offered after a vote.
    """
    messages = list(messages)
    under_way = bool(messages) and messages[-1].message.state == "streaming"
    shown: list[ChatbotMessage] = []
    for item in messages:
        message = item.message
        if message.role == "user":
            shown.append({"role": "user", "content": [_html(sent_message(item, editable=not under_way))]})
            continue
        content = [_markdown(message.content)] if message.content.strip() else []
        if message.state != "streaming":
            content.append(_html(reply_bar(item, tags, switchable=not under_way)))
        elif not content:
            content.append(_html(TYPING))
        shown.append({"role": "assistant", "content": content})
    return shown


def sent_message(item: ShownMessage, *, editable: bool) -> str:
    """A person's message, and the button that puts its text back into the box (composer.py)."""
    message = item.message
    edit = _button("Edit message", PENCIL, "data-edit") if editable else ""
    return (
        f'<div data-sent="{escape(message.id)}"><p class="tl-said">{escape(message.content)}</p>{edit}'
        f"{_alternatives(item, 'message') if editable else ''}</div>"
    )


def _alternatives(item: ShownMessage, kind: str) -> str:
    """Buttons to the other messages at this position; empty if there are none."""
    count = len(item.alternatives)
    if count < 2:
        return ""
    here = item.alternatives.index(item.message.id)

    def button(name: str, icon: str, place: int) -> str:
        there = f'data-show="{escape(item.alternatives[place])}"' if 0 <= place < count else "disabled"
        return _button(f"{name} {kind}", icon, there)

    return (
        f'<span class="tl-alternatives">{button("Earlier", LEFT, here - 1)}'
        f'<span aria-label="{kind} {here + 1} of {count}">{here + 1}/{count}</span>'
        f"{button('Later', RIGHT, here + 1)}</span>"
    )


def reply_bar(item: ShownMessage, tags: OfferedTags = NO_TAGS, *, switchable: bool = True) -> str:
    """The bar below a reply: copy, thumbs, the version, how it ended, and the details of the vote.

    Failed replies and those that a client sent as history have no thumbs.
    """
    message = item.message
    label = item.vote.label if item.vote is not None else None
    buttons = _alternatives(item, "reply") if switchable else ""
    if message.content.strip():
        buttons += _button("Copy", COPY, f'data-copy="{escape(message.content)}"')
    votable = message.state in ("complete", "stopped")
    if votable:
        for name, direction, pressed in (("Like", "up", label is True), ("Dislike", "down", label is False)):
            buttons += _button(name, THUMB, f'data-vote="{direction}" aria-pressed="{str(pressed).lower()}"')
    made_by = escape(item.version or "")
    title = f'title="Written by model version {made_by}"'
    version = f'<span class="tl-version" {title}>{made_by}</span>' if made_by else ""
    note = _note(message)
    ending = f'<span class="tl-note">{escape(note)}</span>' if note else ""
    details = vote_details(item.vote, tags) if votable else ""
    return (
        f'<div class="tl-bar" data-message="{escape(message.id)}">{buttons}{version}{ending}'
        f'<span class="tl-refused" role="status"></span>{details}</div>'
    )


def header(identity: Identity, answering: str, *, accounts: bool) -> str:
    links = '<a href="admin/">Admin</a>' if identity.is_admin else ""
    if accounts:
        leave = '<form method="post" action="logout"><button type="submit">Sign out</button></form>'
        links = f"<span>{escape(identity.name)}</span>{links}{leave}"
    return (
        '<div class="tl-header"><button type="button" class="tl-menu" data-drawer aria-expanded="false"'
        ' aria-controls="tl-side">Chats</button><h1>Thumbloop</h1>'
        f'<span class="tl-version">answers by {escape(answering)}</span>'
        f'<nav aria-label="Pages">{links}</nav></div>'
    )


def notice(text: str) -> str:
    return f'<p class="tl-alert" role="alert">{escape(text)}</p>' if text else ""


def plain_markdown(text: str) -> str:
    """Markdown in which, outside code, tags are text and images are links.

    People judge what the model wrote, so the sanitizer must not remove any of it; and an image from a
    foreign server would reveal the reader to its owner.
    """
    pieces = CODE.split(text)
    # CODE has three groups: every fourth piece is prose, the one after it is code.
    return "".join(
        TAG.sub("&lt;", piece).replace("![", "[") if index % 4 == 0 else piece
        for index, piece in enumerate(pieces)
        if index % 4 in (0, 1)
    )


def _button(label: str, icon: str, attributes: str) -> str:
    name = f'aria-label="{label}" title="{label}"'
    return f'<button type="button" class="tl-icon" {name} {attributes}>{icon}</button>'


def _note(message: Message) -> str:
    if message.state == "failed":
        return "This reply failed before its end. Regenerate it to try again."
    if message.state == "given":
        return "sent by an application as history"
    if message.state == "stopped":
        return "stopped"
    if message.finish_reason == "length":
        return "cut at the length limit"
    if message.messages_left_out:
        return f"without the first {message.messages_left_out} messages: the chat is long"
    return "" if message.content.strip() else "The model answered with nothing."


def _markdown(text: str) -> dict[str, Any]:
    return {"type": "text", "text": plain_markdown(text)}


def _html(markup: str) -> dict[str, Any]:
    return {"type": "component", "component": "html", "value": markup, "constructor_args": {}, "props": {}}
