"""The export and import forms of the admin page, built from the models that the API validates with.

Markup only; assets/admin.js sends the form to /api/v1 and shows the answer.
"""

from collections.abc import Iterable
from html import escape
from typing import Any

from pydantic import BaseModel

from app.api.v1.feedback import ExportQuery
from app.api.v1.imports import ImportQuery
from storage.examples.filters import ExampleFilter
from storage.imports.formats import FORMATS

TITLES = {
    "corrections": "With corrections",
    "on_policy": "By the deployed version",
    "skip_bad": "Leave out bad rows",
    "tag": "Reason tag",
    "user": "Person",
}


def export_form() -> str:
    """Format and shape, and below them every filter."""
    fields = _schema(ExportQuery)
    filters = [name for name in fields if name in ExampleFilter.model_fields]
    others = [name for name in fields if name not in ExampleFilter.model_fields]
    return (
        '<form class="tl-form" data-export action="../api/v1/export"><h3>Export</h3>'
        f"<div>{_inputs(fields, others)}</div>"
        f"<details><summary>Which votes</summary><div data-filters>{_inputs(fields, filters)}</div></details>"
        '<div class="tl-save"><button type="submit" class="tl-button">Export</button>'
        '<span class="tl-note" role="status" data-said></span></div></form>'
    )


def import_form() -> str:
    """A file, its format and the options; the report appears below."""
    fields = _schema(ImportQuery)
    fields["format"] |= {"enum": ["", *FORMATS]}
    options = [name for name in fields if name not in ("format", "skip_bad")]
    return (
        '<form class="tl-form" data-import action="../api/v1/import"><h3>Import</h3>'
        '<div><label class="tl-field">File<input type="file" name="file" required></label>'
        f"{_inputs(fields, ['format', 'skip_bad'])}</div>"
        f"<details><summary>Options of the formats</summary><div>{_inputs(fields, options)}</div></details>"
        '<div class="tl-save"><button type="submit" class="tl-button">Import</button>'
        '<span class="tl-note" role="status" data-said></span></div><div data-report></div></form>'
    )


def _schema(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """The JSON schema of each field, by name."""
    return {
        name: schema | {"optional": "anyOf" in schema} | (schema["anyOf"][0] if "anyOf" in schema else {})
        for name, schema in model.model_json_schema()["properties"].items()
    }


def _inputs(fields: dict[str, dict[str, Any]], names: Iterable[str]) -> str:
    return "".join(_input(name, fields[name]) for name in names)


def _input(name: str, schema: dict[str, Any]) -> str:
    title = escape(TITLES.get(name, name.replace("_", " ").capitalize()))
    help = escape(schema.get("description", ""))
    attributes = f'name="{name}" title="{help}"'
    if schema["type"] == "boolean" and not schema["optional"]:
        box = f'<input type="checkbox" value="true" {attributes}>'
        return f'<label class="tl-field tl-check">{box}{title}</label>'
    if schema["type"] == "array":
        boxes = (
            f'<label class="tl-field tl-check"><input type="checkbox" value="{escape(value)}" {attributes}>'
            f"{title}: {escape(value)}</label>"
            for value in schema["items"]["enum"]
        )
        return "".join(boxes)
    if name == "label":
        choices = {"": "both", "up": "thumbs up", "down": "thumbs down"}
    elif schema["type"] == "boolean":
        choices = {"": "any", "true": "yes", "false": "no"}
    elif "enum" in schema:
        choices = {value: value or "told from the data" for value in schema["enum"]}
    else:
        kind = {"integer": "number", "number": "number", "string": "text"}[schema["type"]]
        if schema.get("format") == "date-time":
            kind = "date"
        step = ' step="any"' if schema["type"] == "number" else ""
        return f'<label class="tl-field">{title}<input type="{kind}"{step} {attributes}></label>'
    options = "".join(
        f'<option value="{escape(value)}"{" selected" if value == schema.get("default") else ""}>'
        f"{escape(shown)}</option>"
        for value, shown in choices.items()
    )
    return f'<label class="tl-field">{title}<select {attributes}>{options}</select></label>'
