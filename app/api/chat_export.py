"""A chat as a file for the person whose it is: Markdown to read, JSON to keep."""

import re
from typing import Annotated, Literal

from fastapi import Query
from starlette.responses import Response

from app.api.schemas import ChatWithMessages, MessageOut

Format = Annotated[
    Literal["markdown", "json"],
    Query(description="markdown: to read. json: with ids, times, votes and versions."),
]


def exported(chat: ChatWithMessages, form: str, *, usual_prompt: str = "") -> Response:
    """As Markdown, it has its system prompt where that is not the usual one."""
    name = re.sub(r"[^a-z0-9]+", "-", chat.title.lower()).strip("-") or "chat"
    if form == "json":
        content, kind, suffix = chat.model_dump_json(indent=2), "application/json", "json"
    else:
        content, kind, suffix = as_markdown(chat, usual_prompt), "text/markdown; charset=utf-8", "md"
    attachment = {"Content-Disposition": f'attachment; filename="{name}.{suffix}"'}
    return Response(content, media_type=kind, headers=attachment)


def as_markdown(chat: ChatWithMessages, usual_prompt: str = "") -> str:
    turns = [f"**{_speaker(message)}**\n\n{message.content.strip()}" for message in chat.messages]
    if chat.system_prompt not in ("", usual_prompt):
        turns.insert(0, f"**System prompt**\n\n{chat.system_prompt.strip()}")
    return "\n\n".join([f"# {chat.title or 'Chat'}", *turns]) + "\n"


def _speaker(message: MessageOut) -> str:
    if message.role == "user":
        return "You"
    label = message.vote.label if message.vote is not None else None
    return (message.model_version or "Reply") + {True: " 👍", False: " 👎", None: ""}[label]
