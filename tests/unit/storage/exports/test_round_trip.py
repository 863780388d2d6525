"""Export, import, export: the bytes are the same, whichever doors the rows of a store came through."""

import json
import shutil
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from sqlmodel import col, select

from storage.chats import chat_votes, chats, votes
from storage.db.database import Database, open_database
from storage.db.tables import Table, Vote
from storage.imports.importer import import_file
from storage.people import users
from storage.privacy.consent import delete_chat, set_consent
from storage.registry import model_versions
from storage.review.second_ratings import rate
from storage.settings import Settings
from tests.support.odd_conversations import PROMPTS, comes_back, what_was_said
from tests.support.rows import add_person_with_reply
from tests.support.tool_calls import ROWS as TOOLED

ANSWERS = ["Yes.", "No.", "Perhaps."]
THOUGHTS = ["", "", "Two and two."]
Door = Callable[[Database, int, bool], None]


def chatted(database: Database, pick: int, label: bool) -> None:
    """A chat in which replies are thought about, cut, drawn again, rated, corrected or rated as a whole."""
    with database.write() as session:
        person, chat, first = add_person_with_reply(session, system_prompt="Be brief." if pick % 2 else "")
        version = model_versions.ensure_base(session, "tiny").id
        replies = [first.id]
        for turn in range(pick % 4):
            asked = chats.add_user_message(session, chat.id, f"Question {pick % 3}, {turn}?")
            for answer in ANSWERS[: 1 + pick % 3]:
                reply = chats.begin_reply(session, chat.id, asked.id, model_version_id=version, sampling={})
                chats.finish_reply(
                    session,
                    reply.id,
                    content=answer,
                    reasoning=THOUGHTS[(pick + turn) % 3],
                    state="complete",
                    finish_reason="length" if (pick + turn) % 3 == 1 else "stop",
                    token_ids=[5, 2],
                    timings={},
                )
                replies.append(reply.id)
        for number, reply_id in enumerate(replies):
            if (pick + number) % 3:
                votes.cast_vote(
                    session,
                    user_id=person.id,
                    message_id=reply_id,
                    label=label == bool(number % 2),
                    tags=["clear"] if number % 2 else [],
                    comment="=1+1\n" if pick % 5 == 0 else None,
                    correction="Well." if pick % 7 == 0 else None,
                )
        if pick % 3 == 0:
            chat_votes.cast_chat_vote(session, user_id=person.id, chat_id=chat.id, label=label)
        votes.clear_vote(session, user_id=person.id, message_id=replies[pick % len(replies)])
        if pick % 11 == 0:
            set_consent(session, chat, consent=False, by="test")
        elif pick % 13 == 0:
            delete_chat(session, chat.id)


def brought(*rows: dict[str, Any]) -> Door:
    """An import of rows, the replies of each of which get the pick."""

    def door(database: Database, pick: int, label: bool) -> None:
        for row in rows:
            text = json.dumps(row).replace("PICK", ANSWERS[pick % 3]).replace('"LABEL"', json.dumps(label))
            import_file(database, BytesIO(text.encode()), name="a.jsonl")

    return door


def rated_again(database: Database, pick: int, label: bool) -> None:
    with database.write() as session:
        found = session.exec(select(Vote).where(col(Vote.label).is_not(None)).limit(1)).first()
        if found is not None:
            rate(session, found.id, by=users.create_anonymous(session).id, label=label, note="Hm.")


ROW = {"prompt": "Question?", "completion": "PICK", "label": "LABEL"}
DOORS: dict[str, Door] = {
    "chat": chatted,
    "again": rated_again,
    "judge": brought(ROW | {"judged_by": "gpt-x"}),
    "cut": brought(ROW | {"completion": "PICK And", "finish_reason": "length"}),
    "pair": brought({"prompt": "Question?", "chosen": "PICK", "rejected": "<thinking>Hm.</thinking>Never."}),
    "odd": brought(
        *(
            {"prompt": prompt, "completion": "PICK", "label": number % 2 == 0}
            for number, prompt in enumerate(PROMPTS)
        )
    ),
    "tools": brought(*TOOLED),
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> tuple[Database, Path]:
    folder = tmp_path_factory.mktemp("stores")
    return open_database(Settings(data_dir=folder / "first")), folder


@settings(max_examples=10, phases=[Phase.generate])
@given(
    st.lists(
        st.tuples(st.sampled_from(["chat", *DOORS]), st.integers(0, 200), st.booleans()),
        min_size=1,
        max_size=12,
    )
)
def test_every_store_comes_back(stores: tuple[Database, Path], life: list[tuple[str, int, bool]]) -> None:
    database, folder = stores
    with database.write() as session:
        for table in reversed(Table.metadata.sorted_tables):
            session.execute(sa.delete(table))
    for door, pick, label in life:
        DOORS[door](database, pick, label)
    for shape in ("kto", "pairs"):
        if what_was_said(database, shape) != b"[]":
            comes_back(database, folder, shape)
    for path in folder.glob("*of*"):
        shutil.rmtree(path)
