"""What may be said with a vote beyond its thumb: reason tags, a comment, and a better answer.

Pure: the markup alone. Each change is a change of the same vote; assets/votes.js sends it, and asks for the
texts in a dialog of its own, because Gradio may draw a reply anew while somebody types.
"""

from collections.abc import Sequence
from html import escape

from storage.votes import CurrentVote

TITLES = {"comment": "Comment", "correction": "What should it have said?"}


def vote_details(vote: CurrentVote | None, tags: Sequence[str]) -> str:
    """The row below the thumbs, hidden until there is a vote; the vote's own tags are offered too."""
    label = vote.label if vote is not None else None
    chosen = vote.tags if vote is not None else []
    offered = [*tags, *(tag for tag in chosen if tag not in tags)]
    chips = "".join(_chip(tag, tag in chosen) for tag in offered)
    texts = {"comment": vote.comment, "correction": vote.correction} if vote is not None else {}
    said = "".join(_said(name, title, texts.get(name) or "") for name, title in TITLES.items())
    return (
        f'<div class="tl-details"{"" if label is not None else " hidden"}>'
        f'<div class="tl-tags" role="group" aria-label="Reasons">{chips}'
        '<button type="button" class="tl-chip" data-more aria-haspopup="dialog">Say more…</button></div>'
        f"{said}</div>"
    )


def _chip(tag: str, pressed: bool) -> str:
    name = escape(tag)
    state = str(pressed).lower()
    return f'<button type="button" class="tl-chip" data-tag="{name}" aria-pressed="{state}">{name}</button>'


def _said(name: str, title: str, text: str) -> str:
    shown = f'<small>{title}</small><span data-text="{name}">{escape(text)}</span>'
    return f'<div class="tl-own"{"" if text else " hidden"}>{shown}</div>'
