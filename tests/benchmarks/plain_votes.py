"""What the vote benchmark compares with: the plain way, a session for each request in a thread of its own.

The same tables, checks, pragmas and durability as the product, and nothing else of it: no middleware, no
pages. `python -m tests.benchmarks.plain_votes DATABASE_FILE PORT` serves it.
"""

import hashlib
import sys
from collections.abc import Iterator
from typing import Annotated

import sqlalchemy as sa
import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException
from pydantic import BaseModel
from sqlmodel import Session, create_engine, select

from storage.db.tables import ApiToken, Chat, Message, User, Vote, VoteEvent, now


class NewVote(BaseModel):
    label: bool
    tags: list[str] = []
    comment: str | None = None


class VoteOut(BaseModel):
    message_id: str
    label: bool | None
    revision: int


def create_app(file: str) -> FastAPI:
    engine = create_engine(
        f"sqlite:///{file}", connect_args={"check_same_thread": False}, pool_size=16, max_overflow=64
    )

    @sa.event.listens_for(engine, "connect")
    def pragmas(connection, _record) -> None:  # type: ignore[no-untyped-def]
        connection.isolation_level = None
        for pragma in ("journal_mode=WAL", "synchronous=FULL", "busy_timeout=60000", "foreign_keys=ON"):
            connection.execute(f"PRAGMA {pragma}")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE")

    def session() -> Iterator[Session]:
        with Session(engine) as opened:
            yield opened

    app = FastAPI()

    @app.put("/api/v1/messages/{message_id}/vote")
    def vote(
        message_id: str,
        body: NewVote,
        authorization: Annotated[str, Header()],
        session: Annotated[Session, Depends(session)],
    ) -> VoteOut:
        digest = hashlib.sha256(authorization.removeprefix("Bearer ").encode()).hexdigest()
        token = session.exec(select(ApiToken).where(ApiToken.sha256 == digest)).first()
        user = session.get(User, token.user_id) if token is not None else None
        message = session.get(Message, message_id)
        chat = session.get(Chat, message.chat_id) if message is not None else None
        if user is None or user.disabled or message is None or chat is None or chat.owner_id != user.id:
            raise HTTPException(403)
        found = session.exec(select(Vote).where(Vote.message_id == message_id, Vote.user_id == user.id))
        current = found.first()
        if current is None:
            current = Vote(message_id=message_id, user_id=user.id)
        else:
            current.revision += 1
        current.label, current.tags, current.comment = body.label, body.tags, body.comment
        current.updated_at = now()
        session.add(current)
        event = VoteEvent(
            message_id=message_id,
            user_id=user.id,
            action="cast",
            label=body.label,
            tags=body.tags,
            comment=body.comment,
            revision=current.revision,
        )
        session.add(event)
        answer = VoteOut(message_id=message_id, label=body.label, revision=current.revision)
        session.commit()
        return answer

    return app


if __name__ == "__main__":
    uvicorn.run(create_app(sys.argv[1]), port=int(sys.argv[2]), log_level="warning")
