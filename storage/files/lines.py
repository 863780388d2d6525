"""A file of JSON lines that grows, and that a kill may cut."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from storage.files.atomic import write_atomically


class Lines:
    """A file of JSON lines that grows; a last line that was cut by a kill is dropped."""

    def __init__(self, file: Path) -> None:
        self.file = file
        text = file.read_text() if file.exists() else ""
        if not text.endswith("\n") and text:
            text = text[: text.rfind("\n") + 1]
            write_atomically(file, text)
        # Not splitlines: a text may have U+2028, which JSON leaves as it is.
        self._lines: list[dict[str, Any]] = [json.loads(line) for line in text.split("\n")[:-1]]

    def read(self) -> Sequence[dict[str, Any]]:
        return self._lines

    def append(self, line: dict[str, Any]) -> None:
        with self.file.open("a") as file:
            file.write(json.dumps(line, ensure_ascii=False) + "\n")
        self._lines.append(line)
