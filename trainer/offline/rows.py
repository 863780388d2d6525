"""Reads a file of rated data as examples, in any importable format.

An example's name is its position in the file, such as "line 3".
"""

from dataclasses import dataclass, replace
from pathlib import Path

from storage.errors import InvalidInput
from storage.examples.duplicates import opening
from storage.examples.example import Example
from storage.imports.files.source import open_source
from storage.imports.reader import ImportReport, Reading
from storage.imports.rows.options import NO_OPTIONS, ImportOptions
from storage.imports.rows.row import REPEATED, REPLACED, ImportedRow, later


@dataclass(frozen=True)
class FileRows:
    """The examples of a file in its order, and a report on the other records."""

    examples: list[Example]
    report: ImportReport

    def lines(self) -> list[str]:
        """A sentence for each rejected record and each kind of dropped row."""
        left_out = [f"Left out {one.position}: {one.reason}" for one in self.report.rejections]
        if (more := self.report.rejected - len(left_out)) > 0:
            left_out.append(f"Left out {more} more.")
        left_out += [f"Left out {count}: {reason}." for reason, count in self.report.dropped.items()]
        columns = self.report.left_out.items()
        left_out += [f"Of the folder: {note}." for note in self.report.notes]
        return left_out + [f"Column {column} left out, in {count} records." for column, count in columns]


def read_rows(
    file: Path,
    *,
    options: ImportOptions = NO_OPTIONS,
    skip_bad: bool = False,
    max_rows: int | None = None,
) -> FileRows:
    """The first `max_rows` examples of a file or folder.

    Raises InvalidInput for a file that cannot be read or has no rows, and for a bad record unless `skip_bad`
    is set; the message has the record's position and the reason.
    """
    with open_source(file, str(file)) as source:
        reading = Reading(source, None, options, skip_bad, "reading", nothing="Nothing was trained")
        examples: list[Example] = []
        ballots: dict[str, tuple[int, ImportedRow]] = {}
        for position, row in reading.rows():
            assert reading.format is not None
            if row.ballot is not None:  # of one person's votes on a reply the latest counts
                at, earlier = ballots.setdefault(row.key, (len(examples), row))
                if earlier is not row:
                    ballots[row.key] = at, later(earlier, row)
                    examples[at] = replace(examples[at], label=ballots[row.key][1].label)
                    reading.report.dropped[REPEATED if earlier.label == row.label else REPLACED] += 1
                    continue
            *prompt, reply = (turn.message for turn in row.turns)
            examples.append(
                Example(
                    prompt=prompt,
                    completion=[reply],
                    label=row.label,
                    share=row.share,
                    cut=row.cut,
                    message_id=position,
                    chat_id=opening(prompt),
                    source=f"import:{reading.format.name}",
                )
            )
            if len(examples) == max_rows:
                break
    found = FileRows(examples, reading.report)
    if not examples:
        raise InvalidInput(" ".join([f"There are no rows in {file}.", *found.lines()]), field="data")
    return found
