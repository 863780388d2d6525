"""The options of an export, as the command, the API and the admin page offer them."""

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from storage.examples.duplicates import Contradictions, Duplicates
from storage.examples.filters import EVERYTHING, ExampleFilter
from storage.settings.training import SignalKind

Format = Literal["jsonl", "parquet", "csv", "datasets"]
Shape = Literal["kto", "kto-text", "pairs", "sharegpt", "swift", "openai", "argilla"]


class ExportOptions(BaseModel):
    """The options that every way to export offers."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    format: Format = Field("jsonl", description="File format; datasets is a folder with a dataset card.")
    shape: Shape = Field(
        "kto",
        description="kto: TRL's conversational rows. kto-text: the chat template applied. pairs: an up and a "
        "down reply to the same prompt, for DPO. sharegpt: as LLaMA-Factory reads KTO data. swift: as "
        "ms-swift does. openai: pairs for preference fine-tuning. argilla: records with the vote as a "
        "response.",
    )
    duplicates: Duplicates = Field("keep", description="drop: the same text and label only once.")
    contradictions: Contradictions = Field(
        "keep",
        description="Votes of both kinds on the same text. drop: none of them. majority: those of the larger "
        "kind, none if both are equal.",
    )
    corrections: bool = Field(False, description="Add corrections as desirable examples.")
    signals: list[SignalKind] = Field(
        [],
        description="Add signals after the votes: regenerated or edited (undesirable), copied (desirable).",
    )
    redact: bool = Field(
        False,
        description="Replace personal data in all texts by placeholders such as <EMAIL_ADDRESS_1>; needs "
        "thumbloop[redaction].",
    )


class ExportPlan(ExportOptions):
    """What is exported and how."""

    filter: ExampleFilter = Field(EVERYTHING, description="Which examples.")
    licence: str = Field(
        "unknown", description="Licence of the data, as the hub names it, for example cc0-1.0."
    )
