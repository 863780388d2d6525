"""Options of commands made from the fields of models, so that each is declared once."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from functools import wraps
from typing import Any

import typer
from pydantic import BaseModel
from rich.markup import escape
from typer.models import OptionInfo

from storage.errors import InvalidInput
from storage.imports.rows.options import ImportOptions

Options = Mapping[str, tuple[Any, OptionInfo]]  # the type and the declaration of each parameter


def field_options(model: type[BaseModel], names: Iterable[str]) -> Options:
    """An option for each of these fields, with the field's type, default and description."""
    found = {}
    for name in names:
        field = model.model_fields[name]
        words = [option_name(name)] if field.annotation is bool else []  # otherwise it would have a --no-…
        help = escape(field.description or "")
        found[name] = (field.annotation, typer.Option(field.default, *words, help=help))
    return found


def option_name(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def with_options(
    into: str, options: Options, panel: str | None = None
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """A decorator that adds options to a command, which receives a dict of those given as `into`."""

    def add_options(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_given(**values: Any) -> None:
            chosen = {name: values.pop(name) for name in options}
            values[into] = {
                name: value for name, value in chosen.items() if value != options[name][1].default
            }
            command(**values)

        own = inspect.signature(command).parameters
        added = []
        for name, (annotation, option) in options.items():
            option.rich_help_panel = panel
            added.append(own[into].replace(name=name, default=option, annotation=annotation))
        parameters = [parameter for name, parameter in own.items() if name != into]
        with_given.__signature__ = inspect.Signature([*parameters, *added])  # type: ignore[attr-defined]
        return with_given

    return add_options


def import_options() -> Options:
    return field_options(ImportOptions, ImportOptions.model_fields)


def pairs(filters: list[str]) -> dict[str, object]:
    """The values of options `--filter NAME=VALUE`; raises InvalidInput."""
    found: dict[str, object] = {}
    for text in filters:
        name, equals, value = text.partition("=")
        if not equals:
            raise InvalidInput(f"--filter {text!r} is not NAME=VALUE, such as label=up.", field="filter")
        if name in found:
            raise InvalidInput(f"--filter {name} is given twice; all filters must hold.", field=name)
        found[name] = value
    return found
