"""Several people's votes on one reply, in rows of their own, taken together as their mean or majority."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

from storage.imports.rows.format import by_score
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import REPLACED, Dropped, ImportedRow

TOGETHER = "a vote that counts in the {} of those on the same reply"


class Together:
    """The votes on each reply of a file: give it all rows, and then take each reply's row with `of`.

    Memory grows with the votes, by some hundred bytes each.
    """

    def __init__(self, options: ImportOptions) -> None:
        self._options = options
        self._votes: dict[str, dict[str, tuple[float, str]]] = {}  # by reply and person: worth and time
        self._rows: Counter[str] = Counter()

    def add(self, row: ImportedRow) -> None:
        """Of one person's votes on a reply the latest counts."""
        self._rows[row.reply_key] += 1
        votes = self._votes.setdefault(row.reply_key, {})
        worth = row.score if row.score is not None else 1.0 if row.label else -1.0
        moment = row.voted_at.isoformat() if row.voted_at is not None else ""
        person = row.person or f"#{len(votes)}"
        if person not in votes or not votes[person][1] or not moment or votes[person][1] <= moment:
            votes[person] = worth, moment

    def of(self, row: ImportedRow) -> Iterator[ImportedRow | Dropped]:
        """What becomes of the votes on this row's reply; nothing if it was asked before."""
        votes = self._votes.pop(row.reply_key, None)
        if votes is None:
            return
        rows, how = self._rows[row.reply_key], str(self._options.raters)
        mean = sum(worth for worth, _ in votes.values()) / len(votes)
        label: bool | Dropped = mean > 0
        if row.score is not None:
            label = by_score(mean, "their mean", self._options)
        elif not mean:
            label = Dropped("as many people for as against")
        if rows > len(votes):
            yield Dropped(REPLACED, rows - len(votes))
        if len(votes) > 1:
            yield Dropped(TOGETHER.format(how), len(votes) - 1)
            row = replace(row, tags=(), comment=None, correction=None)  # one person's
        yield replace(row, label=label, ballot=None) if isinstance(label, bool) else label
