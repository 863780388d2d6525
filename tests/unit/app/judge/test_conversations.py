"""Which conversations are asked about, and what is refused by name."""

import json
from pathlib import Path
from typing import Any

import pytest

from app.judge.conversations import ORIGINAL, Known, chat_conversations, read_conversations
from app.judge.pool import read_pool
from storage.chats import chats
from storage.db.database import Database
from storage.errors import InvalidInput
from storage.people import users
from tests.support.rows import add_reply


def written(folder: Path, *rows: Any) -> Path:
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


ASKED = [{"role": "user", "content": "Why?"}]


@pytest.mark.parametrize(
    ("row", "prompt", "replies"),
    [
        ({"prompt": "Why?"}, ASKED, []),
        ({"question": "Why?", "id": 3}, ASKED, []),
        (
            {"instruction": "Translate.", "input": "Good day"},
            [{"role": "user", "content": "Translate.\nGood day"}],
            [],
        ),
        ({"question_id": 81, "category": "writing", "turns": ["Why?", "And then?"]}, ASKED, []),
        ({"prompt": "Why?", "system": "Be kind."}, [{"role": "system", "content": "Be kind."}, *ASKED], []),
        ({"messages": [*ASKED, {"role": "assistant", "content": "So."}]}, ASKED, [Known(ORIGINAL, "So.")]),
        (
            {"prompt": "Why?", "completion": "So.", "label": False, "model": "m"},
            ASKED,
            [Known("m", "So.", vote=False)],
        ),
        (
            {"prompt": "Why?", "chosen": "So.", "rejected": "No."},
            ASKED,
            [Known(ORIGINAL, "So.", vote=True), Known(ORIGINAL, "No.", vote=False)],
        ),
    ],
)
def test_records_that_are_read(tmp_path: Path, row: Any, prompt: Any, replies: list[Known]) -> None:
    (found,) = read_conversations(written(tmp_path, row, row))
    assert found.prompt == prompt
    assert found.replies == replies


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"text": "Why?"}], r"rows\.jsonl, line 1: prompt is missing: the columns are 'text'"),
        ([{"prompt": "Why?"}, {"prompt": 3}], r"line 2: prompt must be text .* Nothing was asked"),
        ([{"prompt": "Why?", "completion": "So.", "label": "perhaps"}], "Nothing was asked"),
        (
            [{"prompt": "Why?"}, {"prompt": "So?", "completion": "So.", "label": True}],
            "line 2: it is rated, as kto",
        ),
        ([], "empty|no records"),
    ],
)
def test_records_that_are_refused(tmp_path: Path, rows: list[Any], message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        read_conversations(written(tmp_path, *rows))


def test_chats_of_people_who_consent_with_their_votes(database: Database) -> None:
    with database.write() as session:
        person = users.create_anonymous(session).id
        for number, consent in enumerate((True, False)):
            chat = chats.create_chat(session, person, system_prompt="Be kind.", consent=consent)
            add_reply(session, chat, f"Why {number}?", "So.", label=True)
            chats.add_user_message(session, chat.id, "Unanswered?")
    with database.read() as session:
        (found,) = chat_conversations(session)
    assert found.prompt == [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why 0?"}]
    assert found.replies == [Known("v1", "So.", vote=True)]


@pytest.mark.parametrize("line", ["{}", "[]", '{"id": 3, "prompt": [], "replies": []}', "{broken"])
def test_a_file_that_is_no_pool_is_refused(tmp_path: Path, line: str) -> None:
    file = tmp_path / "pool.jsonl"
    file.write_text(f"{line}\n")
    with pytest.raises(InvalidInput, match=r"pool\.jsonl, line 1: not a conversation with replies"):
        read_pool(file)
    file.write_text("")
    with pytest.raises(InvalidInput, match=r"pool\.jsonl has no conversations"):
        read_pool(file)
