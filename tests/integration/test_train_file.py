"""`thumbloop train --data`: the engine alone, as people run it."""

import json
import signal
from pathlib import Path

import pytest
import typer.main

from app.cli import cli
from storage.errors import InvalidInput
from tests.support.command_line import CommandLine
from tests.support.rated_files import rated, write_rows

ROWS = 12


@pytest.fixture
def on_rows(tmp_path: Path) -> list[str]:
    """The command on a file of twelve rows."""
    file = write_rows(tmp_path / "rows.jsonl", map(rated, range(ROWS)))
    return ["train", "--data", str(file), "--out", str(tmp_path / "out")]


def test_a_file_is_trained_on_without_a_database(
    thumbloop: CommandLine, on_rows: list[str], tmp_path: Path
) -> None:
    options = ["--beta", "0.2", "--max-rows", "8", "--reference-cache", str(tmp_path / "kept")]
    printed = thumbloop.output(*on_rows, *options, "--report", str(tmp_path / "report.json")).splitlines()
    assert "8 examples to train on (5 up, 3 down); weights 0.910 up, 1.149 down." in printed
    assert "2 steps of 4 examples" in "\n".join(printed)
    assert printed.index("training") > printed.index("loading the model")
    assert any(line.startswith("By the first step, about ") for line in printed[printed.index("training") :])
    assert printed[-1] == f"The adapter is in {tmp_path / 'out'}."
    assert (tmp_path / "out" / "adapter_model.safetensors").exists()
    assert (tmp_path / "kept" / "references.db").exists()
    assert not thumbloop.data_dir.exists()
    report = json.loads((tmp_path / "report.json").read_text())
    assert (report["rows"], report["settings"]["beta"]) == (8, 0.2)
    assert report["settings"]["lora_rank"] == thumbloop.settings["lora_rank"], (
        "the rest is as the settings say"
    )

    line = thumbloop.refused(*on_rows)  # this time with the reference cache where it is by default
    assert thumbloop.data_dir.stat().st_mode & 0o777 == 0o700
    assert f"{tmp_path / 'out'} holds a finished adapter" in line


def test_ctrl_c_stops_and_the_same_command_goes_on(
    thumbloop: CommandLine, on_rows: list[str], tmp_path: Path
) -> None:
    command = [*on_rows, "--epochs", "40", "--reference-cache", "none"]
    thumbloop.settings["checkpoint_steps"] = 2
    first = thumbloop.start(*command)
    first.wait_for("\ntraining\n")
    first.send_signal(signal.SIGINT)
    assert first.wait() == 130
    assert "The same command resumes the training" in first.printed()
    printed = thumbloop.output(*command, "--report", str(tmp_path / "report.json"))
    assert "The adapter is in" in printed
    report = json.loads((tmp_path / "report.json").read_text())
    assert [step["step"] for step in report["steps"]] == list(range(1, 40 * ROWS // 4 + 1))
    assert not (tmp_path / "out" / "unfinished").exists()


def test_what_to_do_is_said_in_options_of_the_command(thumbloop: CommandLine, on_rows: list[str]) -> None:
    line = thumbloop.refused(*on_rows, "--learning-rate", "1e6", "--epochs", "3")
    assert "The gradient exploded" in line
    assert line.endswith("lower --learning-rate 1e+06 or --beta 0.1.")
    thumbloop.settings["model"] = "nowhere/at/all"
    line = thumbloop.refused(*on_rows, code=2)
    assert "THUMBLOOP_MODEL=nowhere/at/all: " in line, "that one came from the environment"


def test_a_bad_row_is_one_line_that_names_it(
    thumbloop: CommandLine, on_rows: list[str], tmp_path: Path
) -> None:
    write_rows(tmp_path / "rows.jsonl", [*map(rated, range(8)), rated(8, label="meh")])
    line = thumbloop.refused(*on_rows)
    assert "rows.jsonl, line 9: label must be true (up) or false (down), not 'meh'." in line
    assert not (tmp_path / "out").exists()


def test_the_plan_is_said_and_the_order_written_without_training(
    thumbloop: CommandLine, on_rows: list[str], tmp_path: Path
) -> None:
    printed = thumbloop.output(*on_rows[:-2], "--plan-only", "--order", str(tmp_path / "order.jsonl"))
    assert "12 examples to train on (8 up, 4 down)" in printed
    assert "3 steps of 4 examples" in printed
    assert "loading the model" not in printed
    lines = (tmp_path / "order.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]
    assert not (tmp_path / "out").exists()


MISUSED = {
    "an option of files without one": (["--beta", "0.2"], "--beta is for .*--data.*takes THUMBLOOP_BETA"),
    "fresh": (["--data", "f", "--out", "o", "--fresh"], "--fresh is for runs on votes"),
    "a report that is a folder": (
        ["--data", "f", "--out", "o", "--report", "."],
        "--report .* is a folder; name a file in it",
    ),
    "a report without a file": (["--report", "r.json"], "--report is for training on a file"),
    "a folder without a file": (["--out", "o"], "--out is for training on a file"),
    "a file without a folder": (["--data", "f"], "--data needs --out"),
    "force": (["--data", "f", "--out", "o", "--force"], "--force is for runs on votes"),
    "no-follow": (["--data", "f", "--out", "o", "--no-follow"], "--follow is for runs on votes"),
    "a value out of range": (["--data", "f", "--out", "o", "--lora-rank", "0"], "--lora-rank 0: "),
    "a plan into a folder": (
        ["--data", "f", "--out", "o", "--plan-only"],
        "--out is for a training, and --plan-only trains nothing",
    ),
    "an order that is a folder": (["--data", "f", "--plan-only", "--order", "."], "--order . is a folder"),
    "a report into nowhere": (
        ["--data", "f", "--out", "o", "--report", "/nowhere/r.json"],
        "--report /nowhere/r.json: there is no folder /nowhere",
    ),
}


@pytest.mark.parametrize(("words", "reason"), MISUSED.values(), ids=MISUSED)
def test_options_that_make_no_sense_are_refused(words: list[str], reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        typer.main.get_command(cli)(["train", *words], standalone_mode=False)
