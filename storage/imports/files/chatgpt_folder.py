"""The folder of ChatGPT's data export: conversations, and the votes on them in a file of its own."""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from storage.imports.files.json_records import read_json_values
from storage.imports.files.records import Record

CHATS, VOTES = "conversations.json", "message_feedback.json"


def read_chats(chats: Path, votes: Path) -> Iterator[Record]:
    """Each conversation, with the votes on it as `feedback`; votes on other conversations are faults."""
    by_chat: dict[str, list[Any]] = defaultdict(list)
    with votes.open("rb") as file:
        for record in read_json_values(file, array=True):
            if record.value is None:
                yield replace(record, position=f"{VOTES}, {record.position}", done=0)
            else:
                by_chat[str(record.value.get("conversation_id"))].append(record.value)
    with chats.open("rb") as file:
        for record in read_json_values(file, array=True):
            if record.value is not None:
                name = record.value.get("conversation_id") or record.value.get("id")
                record = replace(record, value=record.value | {"feedback": by_chat.pop(str(name), [])})
            yield replace(record, position=f"{CHATS}, {record.position}")
        done = file.tell()
    for name, lost in by_chat.items():
        fault = f"{len(lost)} votes are on the conversation {name[:80]!r}, which {CHATS} does not have."
        yield Record(f"{VOTES}, conversation {name[:80]}", done, fault=fault)
