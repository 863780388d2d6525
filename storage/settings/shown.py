"""Settings as people see them: a value, where it comes from, and what a setting takes."""

import json
import os
import tomllib
from pathlib import Path
from typing import Any

import sqlalchemy

from storage.settings import SECRETS, Settings
from storage.settings.validators import variable

KINDS = {
    "integer": "whole number",
    "number": "number",
    "boolean": "`true`, `false`",
    "string": "text",
    "object": "JSON object",
}
LIMITS = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤", "exclusiveMaximum": "<"}


def shown_value(name: str, value: object) -> str:
    """The value as text; never a secret."""
    if name in SECRETS and value:
        return "…"
    if name in ("database_url", "rate_limit_store") and value:
        try:
            return sqlalchemy.make_url(str(value)).render_as_string(hide_password=True)
        except sqlalchemy.exc.ArgumentError:
            return "not an address"  # it may still contain a password
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, dict):
        value = json.dumps(value)
    return str(value) if value != "" else '""'


def source_of(name: str) -> str:
    """Where the value comes from: environment, thumbloop.toml or default."""
    file = Path("thumbloop.toml")
    if variable(name) in os.environ:
        return "environment"
    if file.exists() and name in tomllib.loads(file.read_text()):
        return "thumbloop.toml"
    return "default"


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON schema of each setting, with its default, by name."""
    properties: dict[str, dict[str, Any]] = Settings.model_json_schema()["properties"]
    return properties


def allowed(schema: dict[str, Any]) -> str:
    """The values that a setting takes, from its JSON schema."""
    if "anyOf" in schema:
        return ", ".join(allowed(each) for each in schema["anyOf"])
    if "const" in schema:
        return f"`{schema['const']}`"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    kind = "object" if "$ref" in schema else schema["type"]
    if kind == "array":
        names = ", ".join(f"`{value}`" for value in schema["items"].get("enum", ()))
        return f"list, with commas: {names}" if names else "list, with commas"
    limits = [f"{sign} {schema[key]:g}" for key, sign in LIMITS.items() if key in schema]
    return " ".join([KINDS[kind], ", ".join(limits)]).strip()
