"""Ours out: the examples of a snapshot as JSONL that TRL and `datasets` read."""

import json
from collections.abc import Iterator

from sqlmodel import Session

from storage.examples import iter_examples


def export_jsonl(session: Session, snapshot_event_id: int, salt: bytes) -> Iterator[str]:
    """One line per example, ending in a newline; the same snapshot gives the same lines.

    `salt` keys the pseudonyms of the voters (see storage.secret).
    """
    for example in iter_examples(session, snapshot_event_id):
        yield json.dumps(example.to_row(salt=salt), ensure_ascii=False) + "\n"
