"""The options of an import: which columns are meant, what to leave out, and how to read labels and scores."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.errors import InvalidInput

# What `columns` may name, and the column of our own that it stands for.
MEANINGS = {
    "prompt": "prompt",
    "reply": "completion",
    "label": "label",
    "score": "score",
    "system": "system",
    "chosen": "chosen",
    "rejected": "rejected",
    "left": "left",
    "right": "right",
    "person": "rater",
    "message": "message_id",
    "time": "voted_at",
    "comment": "comment",
    "correction": "correction",
    "tags": "tags",
    "model": "model",
    "reference": "reference",
}
HOLDERS = ("data", "fields")  # where Label Studio and Argilla keep the texts of a record
OPTIONAL = {"system", "person", "time", "comment", "correction", "tags", "model", "reference"}


class ImportOptions(BaseModel):
    """Which columns are meant, what to leave out, and how to read labels and scores; None where not given.

    The API's query, the admin page's form and the commands offer these fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    columns: str | None = Field(
        None,
        description=f"Which of your columns are meant: prompt=question,reply=answer, or the name of a saved "
        f"map. Meanings: {', '.join(MEANINGS)}.",
    )
    leave_out: str | None = Field(
        None, description="Columns to leave out although the model may have read them: context,tools."
    )
    plain: bool = Field(
        False, description="true: take texts as they are, even with marks of a chat template in them."
    )
    max_messages: int | None = Field(None, description="Drop longer conversations, the reply included.")
    min_rating: float | None = Field(None, description="Drop pairs whose chosen reply is rated below.")
    max_rating_rejected: float | None = Field(
        None, description="Drop pairs whose rejected reply is rated above."
    )
    min_margin: float | None = Field(
        None, description="Drop pairs whose chosen reply is rated less than this above the rejected one."
    )
    score_column: str | None = Field(None, description="The column of the scores.")
    up_from: float | None = Field(None, description="Scores from here on are thumbs up.")
    down_to: float | None = Field(None, description="Scores up to here are thumbs down.")
    up_words: str | None = Field(None, description="Labels that mean thumbs up, with commas: good,1.")
    down_words: str | None = Field(None, description="Labels that mean thumbs down, with commas: bad,0.")
    raters: Literal["each", "mean", "majority"] | None = Field(
        None, description="Several people on one reply: a vote of each (default), their mean, or a majority."
    )

    @cached_property
    def meant(self) -> dict[str, str]:
        """Our column by yours, from `columns`; raises InvalidInput."""
        found: dict[str, str] = {}
        for part in _parts(self.columns):
            meaning, _, column = (text.strip() for text in part.partition("="))
            if meaning not in MEANINGS or not column:
                raise InvalidInput(
                    f"columns {part!r} is not MEANING=COLUMN, such as prompt=question; the meanings are "
                    f"{', '.join(MEANINGS)}.",
                    field="columns",
                )
            if column in found or MEANINGS[meaning] in found.values():
                raise InvalidInput(f"columns names {part!r} twice.", field="columns")
            found[column] = MEANINGS[meaning]
        return found

    @cached_property
    def left_out(self) -> frozenset[str]:
        return frozenset(_parts(self.leave_out))

    def renamed(self, record: Mapping[str, Any]) -> dict[str, Any]:
        """The record under our own names. A column whose name another took keeps it with a star."""
        if not self.columns:
            return dict(record)
        held = (record.get(name) for name in HOLDERS)
        if any(isinstance(holder, Mapping) and holder.keys() & self.meant.keys() for holder in held):
            return dict(record)  # its format renames what the holder has
        needed = [name for name, ours in self.meant.items() if ours not in OPTIONAL and name not in record]
        if needed:
            raise InvalidInput(
                f"There is no column {needed[0]!r}, which columns names; the columns are "
                f"{shown_columns(record)}.",
                field="columns",
            )
        ours = set(self.meant.values())
        return {
            self.meant.get(name) or (f"{name}*" if name in ours else name): value
            for name, value in record.items()
        }


NO_OPTIONS = ImportOptions()


def shown_columns(record: Mapping[Any, Any]) -> str:
    """The names of the columns for a message."""
    names = [repr(name[:80]) if isinstance(name, str) else str(name) for name in record]
    return ", ".join(names[:20]) + (", …" if len(names) > 20 else "") if names else "none"


def words(option: str | None) -> set[str]:
    return {part.casefold() for part in _parts(option)}


def _parts(option: str | None) -> Iterator[str]:
    return (part.strip() for part in (option or "").split(",") if part.strip())
