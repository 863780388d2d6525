"""Redacted exports: personal data is gone from every text and every shape, and the manifest says how."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.db.database import Database
from storage.errors import BadSetting
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.exports.redaction import OVERLAP, PIECE, Redactor, load_redactor
from storage.exports.shapes import ChatTemplate
from tests.support.rated_store import SALT, SHAPES, fill, template
from tests.support.rows import rate

FOUND = {
    "ada.lovelace@mail.example.co.uk": "EMAIL_ADDRESS",
    "ada@mail.internal": "EMAIL_ADDRESS",
    "+49 30 901820": "PHONE_NUMBER",
    "(212) 555-0187": "PHONE_NUMBER",
    "4111 1111 1111 1111": "CREDIT_CARD",
    "DE89 3704 0044 0532 0130 00": "IBAN_CODE",
    "192.168.2.17": "IP_ADDRESS",
    "2001:db8::ff00:42:8329": "IP_ADDRESS",
    "00:1B:44:11:3A:B7": "MAC_ADDRESS",
    "1BvBMSEYstWetqTFn5Au4m4GFg7xJaNVN2": "CRYPTO",
    "postgresql://bob:pa55word@db.example.org/app": "LINK_WITH_PASSWORD",
}
HARMLESS = [
    "On 2026-01-31 at 12:30, π is 3.14159.",
    "See https://example.com/a?b=c#d, item [1, 2]",
    "4111 1111 1111 1112",  # no card has this check digit
    "Ada Lovelace lives in London.",  # without a model
    "🎉 e\u0301 \u202e \x01 \u2028",
    "",
    " ",
]


@pytest.fixture(scope="module")
def redactor() -> Redactor:
    return load_redactor("en", "")


def exported(database: Database, redactor: Redactor, **plan: Any) -> tuple[bytes, dict[str, Any]]:
    with database.read() as session:
        export = Export(
            session,
            ExportPlan.model_validate({"redact": True} | plan),
            salt=SALT,
            template=ChatTemplate(template),
            redactor=redactor,
        )
        return b"".join(export.chunks()), export.manifest()


@pytest.mark.parametrize(("secret", "entity"), FOUND.items(), ids=FOUND.values())
def test_what_patterns_find(redactor: Redactor, secret: str, entity: str) -> None:
    text = f"☀ 🎉 It is\n{secret} and no more."
    ((start, end, found),) = redactor.spans(text)
    assert (text[start:end], found) == (secret, entity)


@pytest.mark.parametrize("text", HARMLESS)
def test_what_is_left_as_it_is(redactor: Redactor, text: str) -> None:
    assert redactor.spans(text) == []


@pytest.mark.parametrize("at", [PIECE - 10, PIECE - 1, PIECE, 2 * PIECE - OVERLAP, 3 * PIECE - 5])
def test_nothing_is_cut_in_two_where_long_texts_are(redactor: Redactor, at: int) -> None:
    secret = "ada.lovelace@mail.example.co.uk"
    text = "x " * (at // 2) + secret + " y" * PIECE
    assert [text[start:end] for start, end, _ in redactor.spans(text)] == [secret]


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(st.text(max_size=8) | st.sampled_from([*FOUND, "@", ".", " ", "://", ":"]), max_size=8))
def test_spans_of_any_text_are_in_order_and_apart(parts: list[str]) -> None:
    text = "".join(parts)
    end = 0
    for span in load_redactor("en", "").spans(text):
        assert end <= span.start < span.end <= len(text)
        assert span.entity in FOUND.values()
        end = span.end


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("format", ["jsonl", "csv", "parquet"])
def test_nothing_personal_is_left_in_any_column(
    database: Database, redactor: Redactor, shape: str, format: str
) -> None:
    import io

    import pyarrow.parquet as pq

    with database.write() as session:
        rate(
            session,
            "I am ada@mail.internal, or bob@mail.internal?",
            {"Hello ada@mail.internal, call +49 30 901820!": True, "No bob@mail.internal.": False},
            system_prompt="You work for cyd@mail.internal.",
            comment="Ask dan@mail.internal",
            correction="Hello eve@mail.internal",
            tags=["from fay@mail.internal"],
        )
    data, manifest = exported(database, redactor, shape=shape, format=format)
    text = str(pq.read_table(io.BytesIO(data)).to_pylist()) if format == "parquet" else data.decode()
    assert "mail.internal" not in text
    assert "901820" not in text
    # OpenAI's rows have no comments, corrections and tags.
    assert f"<EMAIL_ADDRESS_{3 if shape == 'openai' else 6}>" in text
    assert manifest["redaction"]["replaced"]["EMAIL_ADDRESS"] > 6
    assert manifest["redaction"]["replaced"]["PHONE_NUMBER"] >= 1


def test_the_same_data_has_the_same_number_in_a_row(database: Database, redactor: Redactor) -> None:
    with database.write() as session:
        rate(
            session,
            "ada@mail.internal or bob@mail.internal?",
            {"bob@mail.internal, not ada@mail.internal or 192.168.2.17": True},
            comment="bob@mail.internal!",
        )
    row = json.loads(exported(database, redactor)[0])
    assert row["prompt"][0]["content"] == "<EMAIL_ADDRESS_1> or <EMAIL_ADDRESS_2>?"
    assert row["completion"][0]["content"] == "<EMAIL_ADDRESS_2>, not <EMAIL_ADDRESS_1> or <IP_ADDRESS_1>"
    assert row["comment"] == "<EMAIL_ADDRESS_2>!"


def test_a_pair_shares_its_numbers(database: Database, redactor: Redactor) -> None:
    with database.write() as session:
        rate(session, "Who?", {"ada@mail.internal": True, "bob@mail.internal": False})
    row = json.loads(exported(database, redactor, shape="pairs")[0])
    assert row["chosen"][0]["content"] == "<EMAIL_ADDRESS_1>"
    assert row["rejected"][0]["content"] == "<EMAIL_ADDRESS_2>"


def test_texts_without_personal_data_are_the_same_bytes_and_always_are(
    database: Database, redactor: Redactor
) -> None:
    fill(database, 20)
    data, manifest = exported(database, redactor)
    assert set(manifest["redaction"]["replaced"]) <= {"PHONE_NUMBER"}  # +49 30 1234 is one of the texts
    assert exported(database, redactor) == (data, manifest)
    with database.read() as session:
        plain = b"".join(Export(session, ExportPlan(), salt=SALT).chunks())
    lines = zip(data.split(b"\n"), plain.split(b"\n"), strict=True)
    assert all(one == other for one, other in lines if b"<PHONE_NUMBER" not in one)


def test_the_manifest_and_the_card_say_by_what(
    database: Database, redactor: Redactor, tmp_path: Path
) -> None:
    fill(database, 3)
    plan = ExportPlan(format="datasets", redact=True)
    with database.read() as session:
        redaction = export_to(tmp_path / "out", Export(session, plan, salt=SALT, redactor=redactor))[
            "redaction"
        ]
        plain = export_to(tmp_path / "plain", Export(session, ExportPlan(format="datasets"), salt=SALT))
    assert (redaction["language"], redaction["model"]) == ("en", None)
    assert set(FOUND.values()) == set(redaction["entities"])
    assert set(redaction["engines"]) == {"presidio-analyzer", "presidio-anonymizer", "spacy", "phonenumbers"}
    assert f"Presidio {redaction['engines']['presidio-analyzer']}" in (tmp_path / "out/README.md").read_text()
    assert plain["redaction"] is None
    assert "Presidio" not in (tmp_path / "plain/README.md").read_text()


def test_names_and_places_where_there_is_a_model(tmp_path: Path) -> None:
    import spacy  # seconds, which other test processes need not wait for

    pipeline = spacy.blank("de", meta={"name": "names", "version": "1.2"})
    ruler = pipeline.add_pipe("entity_ruler")
    ruler.add_patterns(  # type: ignore[attr-defined]
        [{"label": "PER", "pattern": "Ada Lovelace"}, {"label": "LOC", "pattern": "London"}]
    )
    pipeline.to_disk(tmp_path / "model")
    redactor = Redactor("de", str(tmp_path / "model"))
    text = "Ada Lovelace aus London: ada@mail.internal"
    assert [(text[start:end], entity) for start, end, entity in redactor.spans(text)] == [
        ("Ada Lovelace", "PERSON"),
        ("London", "LOCATION"),
        ("ada@mail.internal", "EMAIL_ADDRESS"),
    ]
    assert redactor.about["model"] == "names 1.2"
    with pytest.raises(BadSetting, match="'de'") as caught:
        Redactor("en", str(tmp_path / "model"))
    assert caught.value.field == "redaction_language"


def test_a_language_or_model_that_is_not_there_is_named() -> None:
    with pytest.raises(BadSetting, match="'tlh'") as caught:
        Redactor("tlh")
    assert caught.value.field == "redaction_language"
    with pytest.raises(BadSetting, match="spacy download en_no_such") as caught:
        Redactor("en", "en_no_such")
    assert caught.value.field == "redaction_model"


WITHOUT_THE_EXTRA = """
import sys
sys.modules["presidio_analyzer"] = None  # what an installation without the extra looks like to an import
from storage.errors import InvalidInput
from storage.exports.redaction import load_redactor
try:
    load_redactor("en", "")
except InvalidInput as error:
    print(error.code, error.message)
"""


def test_without_the_extra_it_says_what_to_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_THE_EXTRA], capture_output=True, text=True, check=True
    )
    assert done.stdout.startswith("redaction_missing ")
    assert "pip install 'thumbloop[redaction]'" in done.stdout


def test_nothing_is_fetched_from_a_network() -> None:
    # A child that may not open a socket, so that a look-up of a list or a model would raise.
    code = (
        "import socket\n"
        "def refuse(*_, **__): raise AssertionError('a socket')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from storage.exports.redaction import load_redactor\n"
        "print(len(load_redactor('en', '').spans('ada@mail.example.com 192.168.2.17')))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "2\n"
