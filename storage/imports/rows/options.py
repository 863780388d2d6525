"""The options of an import: what to leave out, and how to read scores."""

from pydantic import BaseModel, ConfigDict, Field


class ImportOptions(BaseModel):
    """What to leave out, and how to read scores; None where not given.

    The API's query, the admin page's form and the commands offer these fields.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_messages: int | None = Field(None, description="Drop longer conversations, the reply included.")
    min_rating: float | None = Field(None, description="Drop pairs whose chosen reply is rated below.")
    max_rating_rejected: float | None = Field(
        None, description="Drop pairs whose rejected reply is rated above."
    )
    score_column: str | None = Field(None, description="The column of the scores.")
    up_from: float | None = Field(None, description="Scores from here on are thumbs up.")
    down_to: float | None = Field(None, description="Scores up to here are thumbs down.")


NO_OPTIONS = ImportOptions()
