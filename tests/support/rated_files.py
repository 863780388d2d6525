"""Files of rated replies for the tests that train on files."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def rated(number: int, **other: Any) -> dict[str, Any]:
    """A row of TRL's plain unpaired preferences; every third is disliked."""
    row = {"prompt": f"What is {number} plus {number}?", "completion": f"It is {2 * number}."}
    return {**row, "label": number % 3 != 0, **other}


def write_rows(file: Path, rows: Iterable[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file
