"""Data that cannot be trained on: each refused, or left out, with a reason that names the row."""

import json
import logging
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from storage.errors import InvalidInput, ModelUnavailable
from storage.settings import Settings
from tests.support.rated_files import rated, write_rows
from trainer.offline.train_file import OfflineTraining, train_on_file

Rows = list[dict[str, Any]]
GOOD: Rows = [rated(number) for number in range(8)]

REFUSED: dict[str, tuple[Rows, str]] = {
    "no rows": ([], "There are no rows in .*rows.jsonl"),
    "likes only": (
        [rated(n, label=True) for n in range(8)],
        "8 examples .* all thumbs up, and KTO",
    ),
    "dislikes only": ([rated(n, label=False) for n in range(8)], "8 examples .* all thumbs down"),
    "fewer rows than a micro-batch": (GOOD[:3], "3 rows to train on, fewer than a micro-batch of 4"),
    "an empty completion": ([*GOOD, rated(8, completion="")], "line 9: completion is empty"),
    "no completion": ([*GOOD, rated(8, completion=None)], "line 9: completion is missing"),
    "a label that is a word": ([*GOOD, rated(8, label="meh")], "line 9: label must be .* not 'meh'"),
    "a label that is a number": ([*GOOD, rated(8, label=1)], "line 9: label must be .* not 1"),
    "roles out of order": (
        [*GOOD, rated(8, prompt=[{"role": role, "content": "a"} for role in ("user", "assistant")])],
        "line 9: The last message before the reply must be the user's; there are user, assistant.",
    ),
    "an unknown role": (
        [*GOOD, rated(8, prompt=[{"role": "narrator", "content": "a"}])],
        "line 9: prompt.0.role must be system, developer, user or assistant; it is 'narrator'",
    ),
    "an unknown format": ([{"text": "a"}], "line 1: no known format has these columns: 'text'"),
}
LEFT_OUT: dict[str, tuple[Rows, str]] = {
    "a prompt that fills the context": (
        [*GOOD, rated(8, prompt="why " * 200)],
        r"Left out 1, because the prompt alone fills the 128 tokens of a row: line 9 \(\d+ tokens\).",
    ),
    "a reply of blanks": ([*GOOD, rated(8, completion=" \n")], "because the reply is empty: line 9."),
    "a row and its opposite": (
        [*GOOD, rated(8, label=True), rated(8, label=False)],
        r"rated the other way at least as often: line 9 \(unlike line 10\), line 10 \(unlike line 9\).",
    ),
    "two rows that are the same once cut": (
        [*GOOD, *(rated(8, completion="so " * 200 + end, label=end == "good") for end in ("good", "bad"))],
        r"cut to 128 tokens .*: line 9 \(unlike line 10\), line 10 \(unlike line 9\).",
    ),
    "two rows and one opposite": (
        [*GOOD[:6], rated(8, label=True), rated(8, label=False), rated(8, label=True)],
        r"Left out 1, .*: line 8 \(unlike line 7\).",
    ),
}


@pytest.fixture
def train(tmp_path: Path, tiny_model: Path) -> Callable[..., dict[str, Any]]:
    def train(
        rows: Rows, model: Path = tiny_model, *, skip_bad: bool = False, **given: Any
    ) -> dict[str, Any]:
        data = write_rows(tmp_path / "rows.jsonl", rows)
        plain = {"precision": "fp32", "lora_rank": 2, "max_length": 128}
        settings = Settings(data_dir=tmp_path / "data", model=str(model), **{**plain, **given})
        return train_on_file(
            OfflineTraining(data, tmp_path / "out", settings, references=None, skip_bad=skip_bad)
        )

    return train


@pytest.mark.parametrize(("rows", "reason"), REFUSED.values(), ids=REFUSED)
def test_refused_before_anything_is_written(
    train: Callable[..., Any], tmp_path: Path, rows: Rows, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=reason):
        train(rows)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("rows", "reason"), LEFT_OUT.values(), ids=LEFT_OUT)
def test_left_out_by_name_and_the_rest_trained_on(
    train: Callable[..., Any], caplog: pytest.LogCaptureFixture, rows: Rows, reason: str
) -> None:
    with caplog.at_level(logging.INFO, logger="trainer"):
        report = train(rows)
    logged = "\n".join(caplog.messages)
    assert report["rows"] == 8
    assert report["rows"] + sum(report["dropped"].values()) == len(rows)
    (names,) = report["plan"]["dropped_rows"].values()
    assert names
    assert re.search(reason, logged), logged


def test_bad_records_may_be_skipped(train: Callable[..., Any], caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="trainer"):
        report = train([rated(8, label="yes"), *GOOD, rated(9, completion="")], skip_bad=True)
    assert report["rows"] == 8
    assert any(
        line.startswith("Left out line 1: label must be true (up) or false (down), not 'yes'.")
        for line in caplog.messages
    )
    assert "Left out line 10: completion is empty." in caplog.messages


def variant(model: Path, folder: Path, change: Callable[[Any], None]) -> Path:
    """The model with another tokenizer."""
    shutil.copytree(model, folder)
    tokenizer = AutoTokenizer.from_pretrained(model)
    change(tokenizer)
    (folder / "chat_template.jinja").unlink(missing_ok=True)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    ("part", "reason"), [("chat_template", "no chat template"), ("eos_token", "no end-of-sequence token")]
)
def test_a_tokenizer_without_what_training_needs(
    train: Callable[..., Any], tmp_path: Path, tiny_model: Path, part: str, reason: str
) -> None:
    model = variant(tiny_model, tmp_path / "m", lambda tokenizer: setattr(tokenizer, part, None))
    with pytest.raises(ModelUnavailable, match=reason):
        train(GOOD, model)


@pytest.mark.parametrize("engine", ["shared-prefix", "trl"])
def test_a_tokenizer_without_a_padding_token_trains_the_same(
    train: Callable[..., Any], tmp_path: Path, tiny_model: Path, engine: str
) -> None:
    model = variant(tiny_model, tmp_path / "m", lambda tokenizer: setattr(tokenizer, "pad_token", None))
    assert json.loads((model / "tokenizer_config.json").read_text()).get("pad_token") is None
    unpadded = train(GOOD, model, engine=engine)
    shutil.rmtree(tmp_path / "out")
    assert [step["loss"] for step in unpadded["steps"]] == [
        step["loss"] for step in train(GOOD, engine=engine)["steps"]
    ]


RAISES = {
    "on purpose": "{{ raise_exception('no seven, please') }}",
    "by a slip": "{{ 1 / 0 }}",
    "by a wrong name": "{{ messages[0].content.nothing.at_all }}",
    "by a wrong type": "{{ 'a' + 1 }}",
}


@pytest.mark.parametrize("slip", RAISES.values(), ids=RAISES)
def test_a_template_that_raises_for_one_row(
    train: Callable[..., Any], tmp_path: Path, tiny_model: Path, slip: str, caplog: pytest.LogCaptureFixture
) -> None:
    def strict(tokenizer: Any) -> None:
        tokenizer.chat_template = (
            "{% if '7' in messages[0].content %}" + slip + "{% endif %}" + tokenizer.chat_template
        )

    model = variant(tiny_model, tmp_path / "m", strict)
    with caplog.at_level(logging.INFO, logger="trainer"):
        report = train([*GOOD, rated(8)], model)
    assert report["rows"] == 8
    (line,) = (line for line in caplog.messages if "template" in line)
    assert line.startswith("Left out 1, because the chat template refuses the conversation: line 8 (")


def test_a_template_that_raises_for_every_row(
    train: Callable[..., Any], tmp_path: Path, tiny_model: Path
) -> None:
    model = variant(
        tiny_model,
        tmp_path / "m",
        lambda tokenizer: setattr(tokenizer, "chat_template", "{{ raise_exception('not today') }}"),
    )
    reason = r"no examples that can be.*Left out 8, because .* line 1 \(not today\), .* and 3 more\."
    with pytest.raises(InvalidInput, match=reason):
        train(GOOD, model)
