"""The formats as a section of docs/imports.md: a real record of each, and the rows that it gives."""

import json
from collections.abc import Iterator
from typing import Any

from storage.imports.formats.table import FORMATS, rows_of
from storage.imports.rows.format import Format, Sample
from storage.imports.rows.row import Dropped, ImportedRow

BEGIN = "<!-- thumbloop formats --write docs/imports.md writes what follows -->\n"
WIDTH = 120
END = "<!-- end of what thumbloop formats --write docs/imports.md writes -->\n"


def markdown() -> str:
    """The table of formats, and the samples of each."""
    rows = "\n".join(f"| [`{f.name}`](#{f.name}) | {f.about} | {f.becomes} |" for f in FORMATS.values())
    head = f"| format | known by | what becomes of it |\n|---|---|---|\n{rows}\n"
    return head + "".join(part for known in FORMATS.values() for part in _section(known))


def in_page(page: str) -> str:
    """The page with the section as it should be."""
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n{markdown()}\n{END}{rest.partition(END)[2]}"


def sample_rows(sample: Sample, known: Format) -> Iterator[str]:
    """What becomes of a sample, one line for each row or column."""
    for row in rows_of(known, sample.options.renamed(sample.record), sample.options):
        if isinstance(row, ImportedRow):
            yield f"{'👍' if row.label else '👎'} " + " → ".join(
                f"{turn.role}: {json.dumps(turn.content, ensure_ascii=False)}" for turn in row.turns
            )
        else:
            yield f"dropped: {row.reason}" if isinstance(row, Dropped) else f"left out: {row.name}"


def _section(known: Format) -> Iterator[str]:
    yield f"\n### {known.name}\n"
    for sample in known.samples:
        given = sample.options.model_dump(exclude_defaults=True)
        options = ", ".join(f"{name}={_shown(value)}" for name, value in given.items())
        title = sample.title[:1].upper() + sample.title[1:]
        if title or options:
            yield f"\n{title}{' with ' if title and options else ''}{f'`{options}`' if options else ''}:\n"
        records = sample.record["rows"] if known.group else [sample.record]
        record = "\n".join(_laid_out(one, "") for one in records)
        lines = "\n".join(sample_rows(sample, known))
        yield f"\n```json\n{record}\n```\n```text\n{lines}\n```\n"


def _laid_out(value: Any, indent: str) -> str:
    """JSON on one line if it fits, or else an entry on each."""
    if isinstance(value, str) and len(value) > WIDTH:
        value = f"{value[:20]}…{value[-5:]}"
    text = json.dumps(value, ensure_ascii=False)
    if len(indent + text) <= WIDTH or not isinstance(value, dict | list):
        return text
    deeper = indent + " "
    if isinstance(value, list):
        entries = [_laid_out(item, deeper) for item in value]
    else:
        entries = [f"{json.dumps(key)}: {_laid_out(item, deeper)}" for key, item in value.items()]
    brackets = "[]" if isinstance(value, list) else "{}"
    return brackets[0] + f",\n{deeper}".join(entries) + brackets[1]


def _shown(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
