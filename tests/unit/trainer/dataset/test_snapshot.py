"""What a run learns from besides votes: corrections, and imported rows less or not at all."""

import io
import json
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from storage.chats import votes
from storage.db.database import Database
from storage.examples.weights import source_weight
from storage.imports import importer
from storage.settings import Settings
from tests.support.rows import add_person_with_reply
from trainer.dataset.snapshot import Snapshot, take_snapshot
from trainer.dataset.split import by_chat
from trainer.dataset.tokenise import tokenise


@pytest.fixture
def store(database: Database) -> Database:
    """A vote with a correction here, and an imported one."""
    with database.write() as session:
        person, _, reply = add_person_with_reply(session)
        votes.cast_vote(
            session, user_id=person.id, message_id=reply.id, label=False, correction="Because of the sun."
        )
    row = {"prompt": "Hi", "completion": "Hello", "label": True, "correction": "Good day"}
    importer.import_file(database, io.BytesIO(json.dumps(row).encode()))
    return database


def taken(store: Database, **settings: Any) -> Snapshot:
    with store.read() as session:
        return take_snapshot(session, Settings(**settings), moment=datetime.now(UTC))


def shown(snapshot: Snapshot) -> list[tuple[str, bool, str]]:
    return [(e.completion[0]["content"], e.label, e.source) for e in snapshot.examples]


def test_corrections_train_where_the_setting_says_so(store: Database) -> None:
    plain = [("Because.", False, "web"), ("Hello", True, "import:kto")]
    assert shown(taken(store)) == plain
    both = taken(store, train_on_corrections=True)
    assert shown(both) == [
        plain[0],
        ("Because of the sun.", True, "correction"),
        plain[1],
        ("Good day", True, "correction"),
    ]
    assert (both.ups, both.downs) == (1, 1)  # corrections are no votes
    assert sorted(by_chat(both.examples).values()) == [(0, 1), (1, 0)]
    assert len(both.keys) == 2
    assert both.sha256 != taken(store).sha256


@pytest.mark.parametrize(
    ("sources", "left"),
    [
        (["import"], ["web", "correction"]),
        (["import:kto"], ["web", "correction"]),
        (["import:pairs", "imp"], ["web", "correction", "import:kto", "correction"]),
        (["correction", "web"], ["import:kto"]),
    ],
)
def test_excluded_sources_take_their_corrections_with_them(
    store: Database, sources: list[str], left: list[str]
) -> None:
    found = taken(store, train_on_corrections=True, exclude_sources=sources)
    assert [example.source for example in found.examples] == left


def test_the_deployed_version_is_the_one_of_the_first_attempt(store: Database) -> None:
    assert taken(store).deployed == "v1"
    with store.read() as session:
        resumed = take_snapshot(session, Settings(), moment=datetime.now(UTC), deployed="v7")
    assert resumed.deployed == "v7"
    kept = resumed.to_dict([], continued_from="an id")
    assert (kept["deployed"], kept["continued_from"]) == ("v7", "an id")


def test_rows_of_imported_chats_get_the_weight_of_imports(store: Database, tiny_model: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    examples = taken(store, train_on_corrections=True).examples
    weights = {"import_weight": 0.25, "judge_weight": 1.0}
    weigh = partial(source_weight, **weights)
    rows, _ = tokenise(tokenizer, examples, max_length=256, weigh=lambda one: weigh(one.origin))
    assert [row.weight for row in rows] == [1.0, 1.0, 0.25, 0.25]


def test_both_sides_of_an_imported_pair_and_its_later_turns_are_of_one_chat(store: Database) -> None:
    opening = [{"role": "user", "content": "Which?"}]
    later = [*opening, {"role": "assistant", "content": "A"}, {"role": "user", "content": "Why?"}]
    pairs = [{"prompt": prompt, "chosen": "A", "rejected": "B"} for prompt in (opening, later)]
    importer.import_file(store, io.BytesIO("\n".join(map(json.dumps, pairs)).encode()))
    groups = by_chat(taken(store).examples)
    assert sorted(groups.values()) == [(0, 1), (1, 0), (2, 2)]
