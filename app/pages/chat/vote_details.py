"""The markup for a vote's details: reason tags, a comment, and a better answer.

Each change updates the same vote. assets/votes.js sends it, and asks for texts in a dialog of its own,
because Gradio may redraw a reply while the person types.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from storage.chats.votes import CurrentVote

THUMBS = {True: "up", False: "down", None: ""}
TITLES = {"comment": "Comment", "correction": "What should it have said?"}


@dataclass(frozen=True)
class OfferedTags:
    """The reasons offered after a thumb up and after a thumb down."""

    up: Sequence[str] = ()
    down: Sequence[str] = ()

    def after(self, tag: str) -> str:
        """The thumbs after which a tag is offered; both for a tag in neither list, which the vote has."""
        thumbs = [name for name, tags in (("up", self.up), ("down", self.down)) if tag in tags]
        return " ".join(thumbs or ("up", "down"))


NO_TAGS = OfferedTags()


def vote_details(vote: CurrentVote | None, tags: OfferedTags) -> str:
    """The row below the thumbs, hidden until there is a vote. It also offers the vote's own tags."""
    label = vote.label if vote is not None else None
    chosen = vote.tags if vote is not None else []
    offered = dict.fromkeys([*tags.down, *tags.up, *chosen])
    chips = "".join(_chip(tag, tag in chosen, tags.after(tag)) for tag in offered)
    texts = {"comment": vote.comment, "correction": vote.correction} if vote is not None else {}
    said = "".join(_said(name, title, texts.get(name) or "") for name, title in TITLES.items())
    return (
        f'<div class="tl-details" data-thumb="{THUMBS[label]}"{"" if label is not None else " hidden"}>'
        f'<div class="tl-tags" role="group" aria-label="Reasons">{chips}'
        '<button type="button" class="tl-chip" data-more aria-haspopup="dialog">Say more…</button></div>'
        f"{said}</div>"
    )


def _chip(tag: str, pressed: bool, after: str) -> str:
    name = escape(tag)
    attributes = f'data-tag="{name}" data-after="{after}" aria-pressed="{str(pressed).lower()}"'
    return f'<button type="button" class="tl-chip" {attributes}>{name}</button>'


def _said(name: str, title: str, text: str) -> str:
    shown = f'<small>{title}</small><span data-text="{name}">{escape(text)}</span>'
    return f'<div class="tl-own"{"" if text else " hidden"}>{shown}</div>'
