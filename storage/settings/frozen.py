"""Fields that say whether a training run keeps their value, as `frozen` in their JSON schema."""

from functools import partial
from typing import Literal

from pydantic import Field

Frozen = Literal["adapter", "run", "never"]

# A trained adapter depends on the value, even if the rows are the same.
AdapterField = partial(Field, json_schema_extra={"frozen": "adapter"})
# A run keeps the value that it started with, so that a later attempt does the same.
RunField = partial(Field, json_schema_extra={"frozen": "run"})
# A later attempt may use another value.
LiveField = partial(Field, json_schema_extra={"frozen": "never"})
