"""Votes on known texts that the tests of exports begin with."""

from sqlmodel import Session

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.tables import Message
from storage.people import users
from storage.registry import model_versions

SALT = b"s" * 32
# What breaks careless formats: quotes, newlines, separators, Unicode of all planes, formulas, empty space.
NASTY = [
    "=1+1",
    "+49 30 1234",
    "-2\n- item",
    "@everyone",
    "\tindented",
    "\r\nnew line first",
    "'quoted' and \"double\", with; separators",
    "null",
    "\u2028line separator\u2029 ☀ 🎉 e\u0301 \U0001f9d1\u200d\U0001f680",
    "\x01\x1f\x7f control",
    " ",
    "[1, 2]",
    '{"role": "user"}',
    "x" * 5000,
]


def rate(
    session: Session, question: str, answers: dict[str, bool], *, system_prompt: str = "", **said: object
) -> list[Message]:
    """A new chat of a new person, in which one question has these answers, each with its vote."""
    version = model_versions.ensure_base(session, "tiny")
    person = users.create_anonymous(session)
    chat = chats.create_chat(session, person.id, system_prompt=system_prompt)
    asked = chats.add_user_message(session, chat.id, question)
    replies = []
    for answer, label in answers.items():
        reply = chats.begin_reply(session, chat.id, asked.id, model_version_id=version.id, sampling={})
        chats.finish_reply(
            session,
            reply.id,
            content=answer,
            state="complete",
            finish_reason="stop",
            token_ids=[5, 2],
            timings={},
        )
        votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=label, **said)  # type: ignore[arg-type]
        replies.append(reply)
    return replies


def fill(database: Database, rows: int = 40) -> None:
    """Votes on nasty texts, some with tags and comments; every third prompt has an up and a down."""
    with database.write() as session:
        for number in range(rows):
            text = NASTY[number % len(NASTY)]
            answers = {f"{text} {number}": number % 3 != 1}
            if number % 3 == 0:
                answers[f"{number} {text}"] = False
            rate(
                session,
                f"{text}?",
                answers,
                system_prompt="Be kind." if number % 2 else "",
                tags=["clear"] if number > rows // 2 else [],
                comment=text if number % 5 == 0 else None,
            )
