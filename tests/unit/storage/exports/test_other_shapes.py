"""Exports for other tools: their rows are what those tools read, and our own import reads them back."""

import json
from pathlib import Path
from typing import Any

import pytest

from storage.db.database import Database, open_database
from storage.imports.importer import import_file
from storage.imports.rows.options import ImportOptions
from storage.settings import Settings
from tests.support.rated_store import content, exported_rows, fill

Rated = tuple[str, str, bool]


def rated(rows: list[dict[str, Any]]) -> list[Rated]:
    return sorted((json.dumps(row["prompt"]), row["completion"][0]["content"], row["label"]) for row in rows)


def imported(tmp_path: Path, data: bytes) -> list[dict[str, Any]]:
    """What an installation that imports the file exports."""
    (file := tmp_path / "rows.jsonl").write_bytes(data)
    other = open_database(Settings(data_dir=tmp_path / "other"))
    try:
        import_file(other, file, options=ImportOptions(plain=True))  # some texts look like messages
        return exported_rows(other)
    finally:
        other.close()


@pytest.mark.parametrize("shape", ["swift", "argilla"])
def test_an_import_reads_every_vote_back(database: Database, tmp_path: Path, shape: str) -> None:
    fill(database)
    found = imported(tmp_path, content(database, shape=shape))
    assert rated(found) == rated(exported_rows(database))


def test_pairs_for_openai_come_back_as_a_thumb_each(database: Database, tmp_path: Path) -> None:
    fill(database)
    found = rated(imported(tmp_path, content(database, shape="openai")))
    pairs = exported_rows(database, shape="pairs")
    wanted = {
        (json.dumps(pair["prompt"]), pair[side][0]["content"], side == "chosen")
        for pair in pairs
        for side in ("chosen", "rejected")
    }
    assert found == sorted(wanted)


def test_the_rows_have_the_columns_of_their_tools(database: Database) -> None:
    fill(database, rows=4)
    pair = exported_rows(database, shape="openai")[0]
    assert set(pair) == {"input", "preferred_output", "non_preferred_output"}
    assert set(pair["input"]) == {"messages", "tools", "parallel_tool_calls"}
    assert [one["role"] for one in pair["preferred_output"]] == ["assistant"]
    swift = exported_rows(database, shape="swift")[0]
    assert swift["messages"][-1]["role"] == "assistant"
    assert isinstance(swift["label"], bool)
    records = exported_rows(database, shape="argilla")
    assert len({record["id"] for record in records}) == len(records)
    assert {record["status"] for record in records} == {"completed"}
    assert {tuple(record["vote.responses"]) for record in records} == {("up",), ("down",)}
    assert all(record["vote.responses.status"] == ["submitted"] for record in records)
