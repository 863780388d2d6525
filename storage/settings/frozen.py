"""Setting fields marked with whether a training run keeps their value (`frozen` in the JSON schema)."""

from functools import partial
from typing import Literal

from pydantic import Field

Frozen = Literal["adapter", "run", "never"]

# The trained adapter depends on the value: another value gives another adapter from the same rows.
AdapterField = partial(Field, json_schema_extra={"frozen": "adapter"})
# A run keeps the value it started with, so a later attempt does the same.
RunField = partial(Field, json_schema_extra={"frozen": "run"})
# A later attempt may use another value.
LiveField = partial(Field, json_schema_extra={"frozen": "never"})
