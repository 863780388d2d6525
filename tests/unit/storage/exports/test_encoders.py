"""What exported files hold, in every shape and format, on both engines."""

import csv
import io
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.chats import chats, votes
from storage.db.database import Database
from storage.errors import InvalidInput
from storage.examples.example import Examples
from storage.examples.filters import ExampleFilter
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.exports.shapes import COLUMNS, ChatTemplate
from storage.files.spreadsheet_cells import defuse_cell, restore_cell
from tests.support.rated_store import NASTY, SALT, SHAPES, content, exported_rows, fill, template
from tests.support.rows import rate

FORMATS = ["jsonl", "csv", "parquet"]


@pytest.mark.parametrize("shape", SHAPES)
def test_every_format_holds_the_same_rows(database: Database, shape: str) -> None:
    fill(database)
    expected = exported_rows(database, shape=shape)
    assert expected
    assert list(expected[0]) == list(COLUMNS[shape])
    assert not any(None in row.values() for row in expected)
    for format in FORMATS[1:]:
        assert exported_rows(database, shape=shape, format=format) == expected


def test_the_shapes(database: Database) -> None:
    with database.write() as session:
        up, down = rate(session, "Why?", {"Because.": True, "No.": False}, system_prompt="Be kind.")
    prompt = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Why?"}]
    kto, _ = exported_rows(database)
    assert (kto["prompt"], kto["completion"], kto["label"]) == (
        prompt,
        [{"role": "assistant", "content": "Because."}],
        True,
    )
    assert (kto["message_id"], kto["model_version"], kto["source"]) == (up.id, "v1", "web")
    text, _ = exported_rows(database, shape="kto-text")
    assert (text["prompt"], text["completion"], text["label"]) == (
        "<system>Be kind.</><user>Why?</><assistant>",
        "Because.</>",
        True,
    )
    _, sharegpt = exported_rows(database, shape="sharegpt")
    assert sharegpt["kto_tag"] is False
    assert sharegpt["conversations"] == [
        {"from": "system", "value": "Be kind."},
        {"from": "human", "value": "Why?"},
        {"from": "gpt", "value": "No."},
    ]
    (pair,) = exported_rows(database, shape="pairs")
    assert (pair["prompt"], pair["chosen"], pair["rejected"]) == (
        prompt,
        [{"role": "assistant", "content": "Because."}],
        [{"role": "assistant", "content": "No."}],
    )
    assert (pair["chosen_message_id"], pair["rejected_message_id"]) == (up.id, down.id)


def test_a_template_that_renders_a_prompt_alone_otherwise_gives_what_both_share(database: Database) -> None:
    with database.write() as session:
        rate(session, "Why?", {"Because.": True})

    def thinking(messages: list[dict[str, str]], generate: bool) -> str:
        return template(messages, generate) + ("<think></think>" if generate else "")

    with database.read() as session:
        export = Export(session, ExportPlan(shape="kto-text"), salt=SALT, template=ChatTemplate(thinking))
        row = json.loads(b"".join(export.chunks()))
    assert (row["prompt"], row["completion"]) == ("<user>Why?</><assistant>", "Because.</>")


def test_a_conversation_that_the_template_refuses_is_left_out_and_counted(database: Database) -> None:
    with database.write() as session:
        rate(session, "Why?", {"Because.": True}, system_prompt="Be kind.")
        rate(session, "When?", {"Now.": True})

    def no_system(messages: list[dict[str, str]], generate: bool) -> str:
        if messages[0]["role"] == "system":
            raise InvalidInput("No system prompts.", code="template_refused")
        return template(messages, generate)

    with database.read() as session:
        export = Export(session, ExportPlan(shape="kto-text"), salt=SALT, template=ChatTemplate(no_system))
        assert len(b"".join(export.chunks()).splitlines()) == 1
        assert export.manifest()["left_out"] == {"refused by the chat template": 1}


@given(text=st.text())
def test_a_defused_cell_is_no_formula_and_comes_back(text: str) -> None:
    cell = defuse_cell(text)
    assert not cell.startswith(("=", "+", "-", "@", "\t", "\r", "\n"))
    assert restore_cell(cell) == text


def test_no_csv_cell_begins_like_a_formula(database: Database) -> None:
    with database.write() as session:
        for text in NASTY:
            rate(session, text, {text: True}, comment=text, tags=[text])
    for shape in SHAPES:
        data = content(database, shape=shape, format="csv").decode()
        for row in csv.reader(io.StringIO(data, newline="")):
            assert not [cell for cell in row if cell.startswith(("=", "+", "-", "@", "\t", "\r"))]


@pytest.mark.parametrize("format", FORMATS)
def test_a_snapshot_gives_the_same_bytes_whatever_happens_later(database: Database, format: str) -> None:
    fill(database)
    with database.read() as session:
        snapshot = votes.latest_event_id(session)
        one, other, *_ = Examples(session, snapshot).iterate()

    def exported() -> dict[str, bytes]:
        with database.read() as session:
            return {
                shape: b"".join(
                    Export(
                        session,
                        ExportPlan.model_validate({"format": format, "shape": shape}),
                        salt=SALT,
                        snapshot_event_id=snapshot,
                        template=ChatTemplate(template),
                    ).chunks()
                )
                for shape in SHAPES
            }

    before = exported()
    with database.write() as session:
        votes.cast_vote(session, user_id=one.user_id, message_id=one.message_id, label=not one.label)
        votes.clear_vote(session, user_id=other.user_id, message_id=other.message_id)
        chats.rename_chat(session, one.chat_id, "other")
        rate(session, "More?", {"Yes.": True, "No.": False})
    assert exported() == before


def test_filters_and_pseudonyms(database: Database) -> None:
    fill(database, 6)
    everything = exported_rows(database)
    ups = exported_rows(database, filter=ExampleFilter(label=True))
    assert ups == [row for row in everything if row["label"]]
    (mine, *_) = everything
    assert exported_rows(database, filter=ExampleFilter(user=mine["user_hash"])) == [
        row for row in everything if row["user_hash"] == mine["user_hash"]
    ]
    with database.read() as session:
        ids = {example.user_id for example in Examples(session, votes.latest_event_id(session)).iterate()}
        strangers = Export(session, ExportPlan(), salt=b"t" * 32)
        other = [json.loads(line) for line in b"".join(strangers.chunks()).decode().split("\n")[:-1]]
    assert not [user_id for user_id in ids if user_id.encode() in content(database)]
    assert {row["user_hash"] for row in other}.isdisjoint(row["user_hash"] for row in everything)


@pytest.mark.parametrize(
    ("arguments", "plan", "field"),
    [
        ({"snapshot_event_id": 5}, {}, "snapshot"),
        ({"snapshot_event_id": -1}, {}, "snapshot"),
        ({}, {"shape": "kto-text"}, "shape"),
        ({}, {"licence": "mine\n---"}, "licence"),
    ],
)
def test_what_cannot_be_exported_is_refused_at_once(
    database: Database, arguments: dict[str, Any], plan: dict[str, Any], field: str
) -> None:
    with database.read() as session, pytest.raises(InvalidInput) as caught:
        Export(session, ExportPlan(**plan), salt=SALT, **arguments)
    assert caught.value.field == field


@pytest.mark.parametrize("format", [*FORMATS, "datasets"])
def test_an_empty_store_exports_an_empty_file(database: Database, tmp_path: Path, format: str) -> None:
    target = tmp_path / "empty"
    with database.read() as session:
        manifest = export_to(
            target, Export(session, ExportPlan.model_validate({"format": format}), salt=SALT)
        )
    assert (manifest["rows"], manifest["votes"], manifest["snapshot_event_id"]) == (
        0,
        {"up": 0, "down": 0},
        0,
    )
    assert target.exists()


@pytest.mark.parametrize("format", FORMATS)
def test_several_threads_may_take_turns_as_a_web_server_does(database: Database, format: str) -> None:
    fill(database, 20)
    plan = ExportPlan.model_validate({"format": format, "contradictions": "majority"})
    with database.read() as session, ThreadPoolExecutor(3) as threads:
        expected = b"".join(Export(session, plan, salt=SALT).chunks(most_rows=3))
        chunks = Export(session, plan, salt=SALT).chunks(most_rows=3)
        taken = list(iter(lambda: threads.submit(next, chunks, None).result(), None))
    assert len(taken) > 3
    assert b"".join(taken) == expected
