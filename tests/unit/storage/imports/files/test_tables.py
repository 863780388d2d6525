"""Reading tables: CSV from spreadsheets, Parquet with surprises and damage, folders that `datasets` saved."""

import csv
import gzip
import io
import json
import random
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.errors import InvalidInput
from storage.imports.files.source import open_source
from storage.imports.files.tables import read_csv
from storage.imports.preview import preview_file
from tests.support.imported import MESSAGES, ROWS, read, values


def write_csv(path: Path, rows: list[dict[str, Any]], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]), delimiter=delimiter)
        writer.writeheader()
        writer.writerows(
            {name: cell if isinstance(cell, str) else json.dumps(cell) for name, cell in row.items()}
            for row in rows
        )


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_csv(tmp_path: Path, delimiter: str) -> None:
    write_csv(tmp_path / "rows.csv", ROWS, delimiter)
    assert values(read(tmp_path / "rows.csv")) == ROWS  # =1+1 is text like any other
    write_csv(tmp_path / "messages.csv", MESSAGES, delimiter)
    assert values(read(tmp_path / "messages.csv")) == MESSAGES


@pytest.mark.parametrize("told", ["sep=;", '"sep=;"', "SEP=;"])
def test_a_line_that_tells_the_separator(told: str) -> None:
    text = f"{told}\r\nprompt;label\r\na, b, c;true\r\n".encode()
    assert values(read(text, "rows.csv")) == [{"prompt": "a, b, c", "label": True}]


def test_csv_from_a_spreadsheet() -> None:
    text = '\ufeffprompt,completion,label\r\n"a\r\nb",=HYPERLINK("x"),TRUE\r\n\r\n"[1, 2]","{""a"": 1}",\r\n'
    first, second = values(read(text.encode(), "rows.csv"))
    assert first == {"prompt": "a\r\nb", "completion": '=HYPERLINK("x")', "label": True}
    assert second == {"prompt": "[1, 2]", "completion": '{"a": 1}', "label": None}


def test_a_note_that_looks_like_messages_is_a_note() -> None:
    note = '[{"role": "user"}]'
    row = {"prompt": note, "comment": note, "chosen_comment": note, "correction": note, "system": note}
    out = io.StringIO()
    writer = csv.DictWriter(out, list(row))
    writer.writeheader()
    writer.writerow(row)
    assert values(read(out.getvalue().encode(), "rows.csv")) == [row | {"prompt": json.loads(note)}]


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_csv_is_told_without_a_name(separator: str) -> None:
    text = f"prompt{separator}label\na{separator}true\n".encode()
    assert values(read(text, "request")) == [{"prompt": "a", "label": True}]
    with pytest.raises(InvalidInput, match="not a kind of file"):
        read(text, "rows.pdf")


def test_formulas_that_our_own_export_defused_are_restored() -> None:
    text = "prompt,completion,label,message_id,user_hash\n'=1,''tis,true,m,u\n"
    assert values(read(text.encode(), "rows.csv"))[0]["prompt"] == "=1"  # type: ignore[index]
    text = "prompt,completion,label\n'=1,''tis,true\n"
    assert values(read(text.encode(), "rows.csv"))[0]["prompt"] == "'=1"  # type: ignore[index]


def test_bad_csv_rows_are_faults_and_the_others_are_read() -> None:
    text = b'prompt,label\na,true,more\nb\n"x"y,true\n\xff\xfe,true\nc,false\n"never closed,true\nd,true\n'
    records = read(text, "rows.csv")
    assert [record.value for record in records if record.value] == [{"prompt": "c", "label": False}]
    assert [(r.position, (r.fault or "")[:20].strip()) for r in records if r.fault] == [
        ("line 2", "The row has 3 cells,"),
        ("line 3", "The row has 1 cells,"),
        ("line 4", "This is not CSV: ','"),
        ("line 5", "This is not UTF-8."),
        ("line 7", "This is not CSV: une"),
    ]
    with pytest.raises(InvalidInput, match="'a' comes 2 times"):
        read(b"a,b,a\n1,2,3\n", "rows.csv")


def test_parquet(tmp_path: Path) -> None:
    pq.write_table(pa.Table.from_pylist(MESSAGES * 50), tmp_path / "rows", row_group_size=60)
    records = read(tmp_path / "rows")
    assert values(records) == MESSAGES * 50
    assert records[-1].position == "row 250"


def test_parquet_with_nested_surprises(tmp_path: Path) -> None:
    message = pa.struct(
        {"role": pa.string(), "content": pa.large_string(), "tool": pa.struct({"x": pa.int8()})}
    )
    table = pa.table(
        {
            "prompt": pa.array(
                [[{"role": "user", "content": "a", "tool": None}, None], None], pa.list_(message)
            ),
            "map": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int64())),
            "bytes": pa.array([b"\xff", None]),
            "deep": pa.array([[[[]]], [[[1]]]], pa.list_(pa.list_(pa.list_(pa.int8())))),
            "label": pa.array(["yes", "no"]).dictionary_encode(),
            "when": pa.array([0, None], pa.timestamp("ns", "UTC")),
        }
    )
    pq.write_table(table, tmp_path / "rows.parquet")
    first, second = values(read(tmp_path / "rows.parquet"))
    assert first is not None
    assert first["prompt"] == [{"role": "user", "content": "a", "tool": None}, None]
    assert (first["bytes"], first["label"]) == (b"\xff", "yes")
    assert second is not None
    assert second["prompt"] is None


def test_a_parquet_text_that_is_not_utf_8_is_a_fault_of_its_row(tmp_path: Path) -> None:
    bad = pa.Array.from_buffers(pa.string(), 2, pa.array([b"\xff", b"a"], pa.binary()).buffers())
    pq.write_table(pa.table({"a": bad}), tmp_path / "rows.parquet")
    first, second = read(tmp_path / "rows.parquet")
    assert (first.fault, second.value) == ("This is not UTF-8.", {"a": "a"})


def test_damaged_parquet_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pq.write_table(pa.Table.from_pylist(MESSAGES), path)
    whole = path.read_bytes()
    for damaged in (whole[:-1], whole[: len(whole) // 2], b"PAR1", b"PAR1" + b"\0" * 100 + b"PAR1"):
        with pytest.raises(InvalidInput, match="not a Parquet file"):
            read(damaged)
    chance = random.Random(1)
    for _ in range(60):  # whatever is wrong inside, it is our error or a fault, never a crash
        bent = bytearray(whole)
        for _ in range(5):
            bent[chance.randrange(4, len(bent))] = chance.randrange(256)
        try:
            with open_source(io.BytesIO(bytes(bent)), "rows") as opened:
                list(opened.records())
        except InvalidInput:
            pass
    pq.write_table(pa.table([pa.array([1]), pa.array([2])], names=["a", "a"]), path)
    with pytest.raises(InvalidInput, match="'a' comes 2 times"):
        read(path)


def test_a_folder_that_datasets_saved(tmp_path: Path) -> None:
    whole = datasets.Dataset.from_list(MESSAGES)
    whole.save_to_disk(tmp_path / "one", num_shards=2)
    records = read(tmp_path / "one", "one")
    assert values(records) == MESSAGES
    assert records[-1].position == "row 5"
    splits = datasets.DatasetDict(train=whole.select([4, 0]), test=whole.select([1]))
    splits.save_to_disk(tmp_path / "splits")
    records = read(tmp_path / "splits")
    assert values(records) == [MESSAGES[4], MESSAGES[0], MESSAGES[1]]
    assert [record.position for record in records] == ["train row 1", "train row 2", "test row 1"]
    with open_source(tmp_path / "splits") as opened:
        assert opened.notes == ("read the splits train, test",)
    plain = tmp_path / "card" / "data"
    plain.mkdir(parents=True)
    whole.to_parquet(plain / "train-00000.parquet")
    (tmp_path / "card" / "README.md").write_text("---\n---\n")
    assert values(read(tmp_path / "card")) == MESSAGES


def test_a_folder_says_which_files_are_read(tmp_path: Path) -> None:
    for name in (
        "train.jsonl",
        "test.jsonl.gz",
        ".cache/old.jsonl",
        "more/extra.csv",
        "README.md",
        ".hidden.jsonl",
    ):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        text = json.dumps(ROWS[0]).encode()
        path.write_bytes(gzip.compress(text) if name.endswith(".gz") else text)
    with open_source(tmp_path) as opened:
        assert [record.value for record in opened.records()] == [ROWS[0]] * 2
        assert opened.notes == (
            "read test.jsonl.gz",
            "read train.jsonl",
            "not read: README.md",
            "not read: more/extra.csv",
        )


def test_the_folder_of_chatgpt_brings_votes_and_text_together(tmp_path: Path) -> None:
    chats = [{"conversation_id": "c1", "mapping": {}}, {"id": "c2", "mapping": {}}]
    votes = [{"conversation_id": name, "rating": "thumbs_up"} for name in ("c2", "c9")]
    (tmp_path / "conversations.json").write_text(json.dumps(chats))
    (tmp_path / "message_feedback.json").write_text(json.dumps(votes))
    (tmp_path / "user.json").write_text("{}")
    first, second, lost = read(tmp_path)
    assert [first.value, second.value] == [chats[0] | {"feedback": []}, chats[1] | {"feedback": votes[:1]}]
    assert (lost.position, lost.value) == ("message_feedback.json, conversation c9", None)


def test_a_folder_that_llama_factory_describes(tmp_path: Path) -> None:
    info = {
        "mine": {"file_name": "a.json", "columns": {"prompt": "ask", "response": "said", "kto_tag": "ok"}},
        "chats": {
            "file_name": "b.jsonl",
            "formatting": "sharegpt",
            "ranking": True,
            "columns": {"messages": "talk", "chosen": "good", "rejected": "bad"},
            "tags": {"role_tag": "who", "content_tag": "what", "user_tag": "me", "assistant_tag": "it"},
        },
        "elsewhere": {"hf_hub_url": "somebody/something"},
    }
    (tmp_path / "dataset_info.json").write_text(json.dumps(info))
    (tmp_path / "a.json").write_text(json.dumps([{"ask": "Hi", "said": "Hello", "ok": True, "note": 1}]))
    said = {
        "talk": [{"who": "me", "what": "Hi"}],
        "good": {"who": "it", "what": "A"},
        "bad": {"who": "it", "what": "B"},
    }
    (tmp_path / "b.jsonl").write_text(json.dumps(said))
    (tmp_path / "c.jsonl").write_text("{}")
    assert values(read(tmp_path)) == [
        {"instruction": "Hi", "output": "Hello", "kto_tag": True, "note": 1},
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "A"},
            "rejected": {"from": "gpt", "value": "B"},
        },
    ]
    with open_source(tmp_path) as opened:
        assert opened.notes == (
            "read a.json",
            "read b.jsonl",
            "not read: c.jsonl",
            "not read: dataset_info.json",
        )
    (tmp_path / "dataset_info.json").write_text("{")
    with pytest.raises(InvalidInput, match="dataset_info.json is not JSON"):
        read(tmp_path)


def test_folders_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="holds no data set"):
        read(tmp_path)
    datasets.Dataset.from_list(MESSAGES).save_to_disk(tmp_path / "set")
    arrow = next((tmp_path / "set").glob("*.arrow"))
    whole = arrow.read_bytes()
    for half in (whole[:40], whole[:-100]):
        arrow.write_bytes(half)
        with pytest.raises(InvalidInput, match="data set cannot be read: Expected to"):
            read(tmp_path / "set")
    arrow.unlink()
    with pytest.raises(InvalidInput, match=f"data set cannot be read: .*{arrow.name}"):
        read(tmp_path / "set")
    (tmp_path / "set" / "state.json").write_text("{")
    with pytest.raises(InvalidInput, match="data set cannot be read: Expecting property name"):
        read(tmp_path / "set")


def test_commas_in_a_quoted_name_separate_nothing() -> None:
    text = b'prompt;completion;label;"Rating (1,2,3,4,5)"\nQ;A;true;3\n'
    (found,) = read_csv(io.BytesIO(text))
    assert found.value == {"prompt": "Q", "completion": "A", "label": True, "Rating (1,2,3,4,5)": "3"}


def test_empty_columns_that_a_spreadsheet_saved_are_left_out() -> None:
    text = b"prompt,completion,label,,\nQ,A,true,,\nR,B,false,,note\n"
    first, second = read_csv(io.BytesIO(text))
    assert first.value == {"prompt": "Q", "completion": "A", "label": True}
    assert second.fault == "'note' is in one of several columns without a name; name the columns."


def test_a_key_that_comes_twice_in_a_cell_is_refused() -> None:
    cell = (
        '[{""role"":""user"",""content"":""Q"",""content"":""R""},{""role"":""assistant"",""content"":""A""}]'
    )
    file = io.BytesIO(f'messages,label\n"{cell}",true\n'.encode())
    (found,) = preview_file(file, name="a.csv").report.rejections
    assert "The key 'content' comes twice" in found.reason
