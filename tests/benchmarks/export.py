"""Exports of large stores: rows per second, growth of memory, the same bytes twice, a flat cost per row.

Each export runs in its own process, twice; memory is what the process grew by beyond its imports.
"""

import json
import random
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from storage.db.database import Database
from storage.db.tables import Chat, Message, Table, User, VoteEvent
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.exports.redaction import load_redactor
from storage.exports.shapes import COLUMNS
from storage.registry import model_versions
from tests.benchmarks.report import empty_store, in_a_process, memory_mib, print_report, store_parser

FORMATS = ("jsonl", "csv", "parquet", "datasets")
# A third part, redact, is left out here: it costs a millisecond for every 350 characters.
KINDS = [f"{format}/{shape}" for shape in COLUMNS for format in FORMATS]
REPLIES = 4  # of a chat: two turns, each regenerated once; the first reply is continued
BEGINNING = datetime(2026, 1, 1, tzinfo=UTC)
WORDS = ("the", "river", "ran", "past", "seven", "quiet", "houses", "and", "nobody", "asked", "where")
SALT = b"s" * 32

RatedChat = tuple[list[dict[str, Any]], ...]


def main() -> None:
    arguments = store_parser(__doc__)
    arguments.add_argument("--votes", type=int, nargs="+", default=[10_000, 100_000])
    arguments.add_argument("--kinds", nargs="+", default=KINDS, help="format/shape or format/shape/redact")
    given = arguments.parse_args()
    figures: dict[str, Any] = {}
    for votes in given.votes:
        with empty_store(given.database_url) as (address, folder):
            began = time.monotonic()
            build(address, votes)
            built = round(time.monotonic() - began, 1)
            figures[f"{votes} votes"] = {"build_s": built} | {
                kind: in_a_process(__spec__.name, "export", kind, address, folder) for kind in given.kinds
            }
    print_report("export", figures)


def build(address: str, votes: int) -> None:
    """A store with `votes` votes that stand, and a vote in twenty changed once before."""
    database = Database(address)
    if database.dialect == "postgresql":
        Table.metadata.drop_all(database.engine)
        with database.engine.begin() as connection:
            connection.execute(sa.text("DROP TABLE IF EXISTS alembic_version"))
    database.migrate()
    with database.write() as session:
        version = model_versions.ensure_base(session, "bench").id
    add_people(database)
    chats = rated_chats(version, votes)
    while add_chats(database, chats, 2_000):
        pass
    database.close()


def add_people(database: Database) -> None:
    """Those who vote in `rated_chats`."""
    with database.engine.begin() as connection:
        connection.execute(sa.insert(User), [{"id": _id(0, n)} for n in range(1000)])


def add_chats(database: Database, chats: Iterator[RatedChat], number: int) -> int:
    """Insert the next chats, with their messages and votes; how many there were."""
    batch = list(islice(chats, number))
    if batch:
        with database.engine.begin() as connection:
            for table, column in ((Chat, 0), (Message, 1), (VoteEvent, 2)):
                connection.execute(sa.insert(table), [row for rows in batch for row in rows[column]])
    return len(batch)


def rated_chats(version: str, votes: int) -> Iterator[RatedChat]:
    """Chats of two turns with two replies each, all voted on; rows of the three tables."""
    draw = random.Random(0)
    number = 0
    for chat in range(-(-votes // REPLIES)):
        chat_id, user_id = _id(1, chat), _id(0, chat % 1000)
        messages: list[dict[str, Any]] = []
        events: list[dict[str, Any]] = []
        parent = None
        for _turn in range(REPLIES // 2):
            question = _message(chat_id, number := number + 1, parent, "user", _text(draw))
            replies = [
                _message(chat_id, number := number + 1, question["id"], "assistant", _text(draw), version)
                for _ in range(2)
            ]
            messages += [question, *replies]
            parent = replies[0]["id"]
            for up, reply in zip((draw.random() < 0.7, False), replies, strict=True):
                if draw.random() < 0.05:
                    events.append(_event(reply["id"], user_id, not up, 1))
                events.append(_event(reply["id"], user_id, up, 2))
        yield [{"id": chat_id, "owner_id": user_id, "system_prompt": "Be kind."}], messages, events


def _message(
    chat_id: str, number: int, parent: str | None, role: str, content: str, version: str | None = None
) -> dict[str, Any]:
    return {
        "id": _id(2, number),
        "chat_id": chat_id,
        "parent_id": parent,
        "role": role,
        "content": content,
        "model_version_id": version,
        "token_ids": list(range(len(content) // 4)) if version else None,
    }


def _event(message_id: str, user_id: str, label: bool, revision: int) -> dict[str, Any]:
    return {
        "message_id": message_id,
        "user_id": user_id,
        "action": "cast",
        "label": label,
        "tags": ["helpful"] if label else [],
        "revision": revision,
        "created_at": BEGINNING + timedelta(seconds=int(message_id[:8], 16)),
    }


def _text(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(10, 80)))


def _id(kind: int, number: int) -> str:
    return f"{number:08x}-{kind:04x}-7000-8000-000000000000"


def export(kind: str, address: str, folder: str, times: str = "2") -> None:
    """Export so many times and print the figures; runs in a process of its own."""
    import pyarrow.parquet  # noqa: F401  counted as an import, not as growth

    format, shape, *redact = kind.split("/")
    redactor = load_redactor("en", "") if redact else None
    plan = ExportPlan.model_validate({"format": format, "shape": shape, "redact": bool(redact)})
    database = Database(address)
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts from here
    before = memory_mib("VmRSS")
    manifests, seconds, processor = [], [], []
    for turn in range(int(times)):
        began, worked = time.monotonic(), time.process_time()
        with database.read() as session:
            target = Path(folder) / f"{format}-{shape}-{turn}"
            manifests.append(
                export_to(target, Export(session, plan, salt=SALT, template=_template, redactor=redactor))
            )
        seconds.append(time.monotonic() - began)
        processor.append(time.process_time() - worked)
    rows = manifests[0]["rows"]
    print(
        json.dumps(
            {
                "rows": rows,
                "mib": round(manifests[0]["bytes"] / 2**20, 1),
                "rows_per_s": round(rows / min(seconds)),
                "us_per_row": round(min(seconds) / rows * 1e6, 1),
                "processor_us_per_row": round(min(processor) / rows * 1e6, 1),
                "memory_mib": round(before, 1),
                "memory_growth_mib": round(memory_mib("VmHWM") - before, 1),
                "same_bytes_twice": manifests[0] == manifests[-1],
                "sha256": manifests[0]["sha256"],
            }
        )
    )


def _template(messages: list[dict[str, str]], generate: bool) -> str:
    text = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return text + "<|im_start|>assistant\n" if generate else text


if __name__ == "__main__":
    main()
