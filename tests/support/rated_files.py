"""Files of rated replies for the tests that train on files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from storage.settings import Settings


def rated(number: int, **other: Any) -> dict[str, Any]:
    """A row of TRL's plain unpaired preferences; every third is disliked."""
    row = {"prompt": f"What is {number} plus {number}?", "completion": f"It is {2 * number}."}
    return {**row, "label": number % 3 != 0, **other}


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def both_replies(number: int) -> list[dict[str, Any]]:
    """A liked and a disliked reply to one question."""
    prompt = f"What is {number} plus {number}?"
    return [
        {"prompt": prompt, "completion": f"It is {2 * number}.", "label": True},
        {"prompt": prompt, "completion": "No idea; ask another one.", "label": False},
    ]


def some_settings(folder: Path, model: Path) -> Settings:
    return Settings(data_dir=folder / "data", model=str(model), precision="fp32", lora_rank=4, max_length=128)


def some_rows(folder: Path) -> Path:
    return write_rows(folder / "rows.jsonl", [row for n in range(12) for row in both_replies(n)])
