"""What an import would do: its first rows as conversations, and its report. Nothing is stored."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from storage.imports.files.source import open_source
from storage.imports.formats.table import named_format
from storage.imports.reader import ImportReport, Progress, Reading
from storage.imports.rows.options import NO_OPTIONS, ImportOptions
from storage.imports.rows.row import ImportedRow

SHOWN = 5  # rows


@dataclass
class Preview:
    """`rows` has the first rows with the positions of their records; bad records are in the report."""

    report: ImportReport
    rows: list[tuple[str, ImportedRow]] = field(default_factory=list)
    up: int = 0
    down: int = 0


def preview_file(
    source: Path | IO[bytes],
    *,
    name: str | None = None,
    format: str | None = None,
    options: ImportOptions = NO_OPTIONS,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Preview:
    """Read a file as `import_file` would; raises InvalidInput if its kind or format is unknown."""
    with open_source(source, name) as opened:
        chosen = named_format(format) if format is not None else None
        reading = Reading(opened, chosen, options, True, "reading", progress)
        preview = Preview(reading.report)
        for position, row in reading.rows():
            if len(preview.rows) < SHOWN:
                preview.rows.append((position, row))
            preview.up += row.label
            preview.down += not row.label
    return preview
