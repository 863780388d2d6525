"""Refuses unknown and repeated parameters, by the names in the API's own OpenAPI description, and any text
that no database can store.

The values are checked by the models of the routes.
"""

import re
from collections import Counter
from typing import Any

from fastapi import FastAPI, Request
from pydantic import BaseModel, model_validator

from storage.chats.chats import check_text
from storage.errors import InvalidInput


def check_storable(given: Any) -> None:
    """Raises InvalidInput for a text of a JSON value that no database can store."""
    waiting = [("", given)]  # not recursive: JSON can be nested deeper than Python's stack
    while waiting:
        name, value = waiting.pop()
        if isinstance(value, str):
            check_text(value, name or "body")
        elif isinstance(value, dict):
            for key in value:
                check_text(key, f"{name}.*".lstrip("."))
            waiting += [(f"{name}.{key}".lstrip("."), each) for key, each in value.items()]
        elif isinstance(value, list):
            waiting += [(f"{name}.{at}".lstrip("."), each) for at, each in enumerate(value)]


def without_nulls(given: Any) -> Any:
    """A JSON object without the fields that are null; anything else as it is."""
    return {k: v for k, v in given.items() if v is not None} if isinstance(given, dict) else given


class NullsLeftOut(BaseModel):
    """An object whose fields are left out where they are null; only a field that is required cannot be."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        optional = {name for name, field in cls.model_fields.items() if not field.is_required()}
        return {name: value for name, value in given.items() if value is not None or name not in optional}


class StorableBody(NullsLeftOut):
    """A request's body. A text that cannot be stored is refused by its name, in whatever field it is."""

    @model_validator(mode="before")
    @classmethod
    def _storable(cls, given: Any) -> Any:
        check_storable(given)
        return given


class Body(StorableBody, extra="forbid"):
    """An unknown field is refused, as it may be a misspelt one."""


def methods(app: FastAPI, path: str) -> list[str]:
    """The HTTP methods of a path, in capitals; empty for an unknown path."""
    return [method.upper() for method in _operations(app, path)]


def refuse_unknown(request: Request, place: str, name: str) -> InvalidInput:
    """The error for an unknown name in `place` (query or body); it lists the known names."""
    operation = _operations(request.app, request.url.path).get(request.method.lower(), {})
    known = _parameters(operation) if place == "query" else _fields(request.app, operation)
    what, code = ("parameter", "unknown_parameter") if place == "query" else ("field", "unknown_field")
    return InvalidInput(
        f"There is no {what} {name[:80]!r} in the {place} here; known are {', '.join(known) or 'none'}.",
        code=code,
        field=name,
    )


async def refuse_unstorable(request: Request) -> None:
    """A dependency: raises InvalidInput for a path or query parameter that no database can store."""
    for name, value in (*request.path_params.items(), *request.query_params.multi_items()):
        check_text(name, "name of a query parameter")
        check_text(value, name)


async def refuse_repeated(request: Request) -> None:
    """A dependency: raises InvalidInput for a repeated query parameter, of which one value would be lost."""
    given = Counter(name for name, _ in request.query_params.multi_items())
    twice = [name for name, times in given.items() if times > 1]
    if not twice:
        return
    operation = _operations(request.app, request.url.path).get(request.method.lower(), {})
    lists = [name for name, schema in _parameters(operation).items() if schema.get("type") == "array"]
    for name in twice:
        if name not in lists:
            raise InvalidInput(
                f"{name[:80]} is given {given[name]} times; it takes one value.",
                code="given_twice",
                field=name,
            )


def _operations(app: FastAPI, path: str) -> dict[str, Any]:
    for template, operations in app.openapi()["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            found: dict[str, Any] = operations
            return found
    return {}


def _parameters(operation: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The schemas of the query parameters, by name."""
    return {each["name"]: each["schema"] for each in operation.get("parameters", ()) if each["in"] == "query"}


def _fields(app: FastAPI, operation: dict[str, Any]) -> list[str]:
    schema = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema", {})
    shapes = [each["$ref"] for each in (schema, *schema.get("anyOf", ())) if "$ref" in each]
    schemas = app.openapi()["components"]["schemas"]
    return [name for shape in shapes for name in schemas[shape.rsplit("/", 1)[-1]]["properties"]]
