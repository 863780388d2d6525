"""LLaMA-Factory's dataset_info.json: which files a folder has, and what their columns are called."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from storage.errors import InvalidInput

INFO = "dataset_info.json"
# The names of LLaMA-Factory's own columns, which its `columns` gives other names.
ALPACA = {"prompt": "instruction", "query": "input", "response": "output"}
SAME = ("history", "system", "tools", "images", "chosen", "rejected", "kto_tag")
SHAREGPT = {"messages": "conversations", **{name: name for name in SAME}}
COLUMNS = {"alpaca": {**ALPACA, **{name: name for name in SAME}}, "sharegpt": SHAREGPT}
TAGS = {"role_tag": "from", "content_tag": "value"}
SPEAKERS = {
    "user_tag": "human",
    "assistant_tag": "gpt",
    "system_tag": "system",
    "observation_tag": "observation",
    "function_tag": "function_call",
}


class Described:
    """One entry of the file: its data, and how its records are renamed."""

    def __init__(self, name: str, entry: Mapping[str, Any]) -> None:
        formatting = entry.get("formatting", "alpaca")
        if formatting not in COLUMNS:
            raise InvalidInput(
                f"{INFO}: the formatting of {name!r} must be alpaca or sharegpt, not {formatting!r:.80}.",
                field="file",
            )
        columns, tags = entry.get("columns") or {}, entry.get("tags") or {}
        self.file = str(entry["file_name"])
        self._columns = {str(theirs): COLUMNS[formatting].get(ours, ours) for ours, theirs in columns.items()}
        self._keys = {str(tags[tag]): key for tag, key in TAGS.items() if tag in tags}
        self._speakers = {str(tags[tag]): speaker for tag, speaker in SPEAKERS.items() if tag in tags}

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record under LLaMA-Factory's own names."""
        found = {self._columns.get(name, name): value for name, value in record.items()}
        for name in ("conversations", "chosen", "rejected"):
            found |= {name: self._messages(found[name])} if name in found else {}
        return found

    def _messages(self, value: Any) -> Any:
        if isinstance(value, list):
            return [self._messages(message) for message in value]
        if not isinstance(value, Mapping):
            return value
        message = {self._keys.get(key, key): held for key, held in value.items()}
        speaker = message.get("from")
        return message | ({"from": self._speakers.get(speaker, speaker)} if isinstance(speaker, str) else {})


def described(folder: Path) -> list[Described]:
    """The entries whose files are in the folder, if it has such a description; raises InvalidInput."""
    path = folder / INFO
    if not path.is_file():
        return []
    try:
        entries = json.loads(path.read_text())
    except ValueError as error:
        raise InvalidInput(f"{INFO} is not JSON: {error}.", field="file") from error
    # The card of a data set has a file of this name, too, which is of another kind.
    known = entries.items() if isinstance(entries, dict) else ()
    return [
        Described(name, entry)
        for name, entry in known
        if isinstance(entry, dict)
        and isinstance(entry.get("file_name"), str)
        and (folder / entry["file_name"]).is_file()
    ]
