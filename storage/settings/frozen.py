"""Setting fields and their marks in the JSON schema: `frozen`, whether a training run keeps their value, and
`changeable`, whether an admin may change it while servers run."""

from functools import partial
from typing import Literal

from pydantic import Field

Frozen = Literal["adapter", "run", "never"]

# The trained adapter depends on the value: another value gives another adapter from the same rows.
AdapterField = partial(Field, json_schema_extra={"frozen": "adapter", "changeable": True})
# The same, of the base model: all adapters of an installation belong to it.
ModelField = partial(Field, json_schema_extra={"frozen": "adapter"})
# A run keeps the value it started with, so a later attempt does the same.
RunField = partial(Field, json_schema_extra={"frozen": "run", "changeable": True})
# A later attempt may use another value.
LiveField = partial(Field, json_schema_extra={"frozen": "never"})
# No training reads it, or any attempt may use another value; servers read it whenever they need it.
NowField = partial(Field, json_schema_extra={"frozen": "never", "changeable": True})
