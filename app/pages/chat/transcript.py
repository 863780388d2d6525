"""Turns stored messages into Gradio Chatbot messages. Pure functions.

Text by people and models is escaped by the template, or passed to Gradio as plain_markdown writes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from markupsafe import Markup

from app.pages.chat.markdown import plain_markdown
from app.pages.html import render
from app.serving.reply import Queued
from app.web.languages import ENGLISH, LANGUAGES, Language
from storage.chats.votes import CurrentVote
from storage.db.tables import FINISHED, Message
from storage.registry.canaries import is_chosen

ChatbotMessage = dict[str, Any]
OfferedTags = Mapping[str, str]  # reason tags, each with the thumbs after which it is offered


@dataclass(frozen=True)
class ShownMessage:
    """One message with what the page shows about it; `version` is a name such as v2."""

    message: Message
    version: str | None = None
    vote: CurrentVote | None = None
    alternatives: Sequence[str] = ()  # ids of all messages at its position, itself included, oldest first


def offered_tags(up: Sequence[str], down: Sequence[str]) -> OfferedTags:
    """The reasons to offer after a thumb up and after a thumb down."""
    return {
        tag: " ".join(thumb for thumb, tags in (("up", up), ("down", down)) if tag in tags)
        for tag in [*down, *up]
    }


def chatbot_messages(
    messages: Iterable[ShownMessage],
    tags: OfferedTags | None = None,
    compare_share: float = 0.0,
    *,
    say: Language = ENGLISH,
    queued: Queued | None = None,
    most: int | None = None,
) -> list[ChatbotMessage]:
    """The Chatbot's value: a reply is its text, then a bar with the thumbs and the version.

    Below `compare_share` of the replies the page asks which of two is better. The newest `most` messages are
    shown; None shows all.
    """
    messages = list(messages)
    under_way = bool(messages) and messages[-1].message.state == "streaming"
    whole = whole_chat(messages)
    shown: list[ChatbotMessage] = []
    for item in messages if most is None else messages[-most:]:
        message, content = item.message, []
        if not shown and item is not messages[0]:
            content.append(_html(render("chat/earlier.html", say=say)))
        replied = bool(message.content.strip())
        if message.reasoning:
            over = replied or message.state != "streaming"
            content.append(
                _html(
                    render(
                        "chat/reasoning.html", say=say, of=message.id, reasoning=message.reasoning, over=over
                    )
                )
            )
        if message.role == "assistant" and replied:
            content.append({"type": "text", "text": plain_markdown(message.content)})
        if message.state != "streaming":
            last = item is messages[-1]
            asked = last and is_asked([one.message.id for one in replies_of(messages)], compare_share)
            asked = asked and item.vote is None and len(item.alternatives) < 2
            content.append(
                _html(
                    message_html(
                        *(item, tags),
                        under_way=under_way,
                        last=last,
                        asked=asked,
                        whole=whole if last else None,
                        say=say,
                    )
                )
            )
        elif not replied:
            content.append(_html(render("chat/typing.html", say=say, queued=queued)))
        shown.append({"role": message.role, "content": content})
    return shown


def replies_of(messages: Iterable[ShownMessage]) -> list[ShownMessage]:
    return [item for item in messages if item.message.role == "assistant"]


def whole_chat(messages: Iterable[ShownMessage]) -> bool | str | None:
    """The thumb of the whole chat, "" without one; None where it would be one on a single reply."""
    replies = [item for item in replies_of(messages) if is_votable(item.message)]
    shared = (item.vote.label for item in replies if item.vote is not None and item.vote.share is not None)
    return next(shared, "") if len(replies) > 1 else None


def is_votable(message: Message) -> bool:
    return message.state in FINISHED and bool(message.content.strip())


def is_asked(replies: Sequence[str], share: float) -> bool:
    """Whether the page asks about the last of these replies (ids): a share of them, never two in a row."""
    drawn = [is_chosen("compare", reply, share) for reply in replies]
    run = next((place for place, one in enumerate(reversed(drawn)) if not one), len(drawn))
    return run % 2 == 1  # of several drawn in a row, the first, the third and so on


def message_html(
    item: ShownMessage,
    tags: OfferedTags | None = None,
    *,
    under_way: bool = False,
    last: bool = False,
    asked: bool = False,
    whole: bool | str | None = None,
    say: Language = ENGLISH,
) -> str:
    """A person's message, or the bar below a reply; the `last` one can be regenerated.

    Below the last reply stands a thumb for the `whole` chat (see `whole_chat`).

    While a reply of the chat is `under_way`, nothing can be edited and no other branch be chosen. Failed and
    empty replies and those that a client sent as history have no thumbs: nothing could be learned from them.
    """
    votable = is_votable(item.message)
    details = Markup()
    if votable and item.vote is None:
        details = _details_without_vote(tuple((tags or {}).items()), say.tag)
    elif votable:
        details = _details(item.vote, tags or {}, say)
    return render(
        "chat/message.html",
        say=say,
        item=item,
        under_way=under_way,
        last=last,
        asked=asked and item.message.state == "complete",
        votable=votable,
        whole=whole if votable else None,
        note=_note(item.message, say),
        details=details,
    )


@lru_cache(maxsize=16)
def _details_without_vote(tags: tuple[tuple[str, str], ...], language: str) -> Markup:
    """They are the same below all these replies, and half of what drawing a long chat takes."""
    return _details(None, dict(tags), LANGUAGES[language])


def _details(vote: CurrentVote | None, tags: OfferedTags, say: Language) -> Markup:
    own = {tag: "up down" for tag in (vote.tags if vote is not None else ()) if tag not in tags}
    return Markup(render("chat/details.html", say=say, vote=vote, offered={**tags, **own}))


def _note(message: Message, say: Language) -> str:
    if message.state == "stopped" and message.finish_reason == "interrupted":
        return say("interrupted")
    if message.state in ("failed", "given", "stopped"):
        return say(message.state)
    if message.finish_reason == "length":
        return say("length")
    if message.messages_left_out:
        return say("left_out", count=message.messages_left_out)
    return "" if message.content.strip() else say("empty")


def _html(markup: str) -> dict[str, Any]:
    return {"type": "component", "component": "html", "value": markup, "constructor_args": {}, "props": {}}
