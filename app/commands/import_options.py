"""Options of a command line for the options of imports, which are the fields of ImportOptions."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Any

import typer

from storage.imports.formats import ImportOptions


def with_import_options(panel: str | None = None) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Gives a command an option for each import option; it receives them together as `options`."""

    def add_options(command: Callable[..., None]) -> Callable[..., None]:
        @wraps(command)
        def with_options(**given: Any) -> None:
            options = ImportOptions(**{name: given.pop(name) for name in ImportOptions.model_fields})
            command(**given, options=options)

        signature = inspect.signature(command)
        added = [
            inspect.Parameter(
                name,
                inspect.Parameter.KEYWORD_ONLY,
                default=typer.Option(None, help=field.description, rich_help_panel=panel),
                annotation=field.annotation,
            )
            for name, field in ImportOptions.model_fields.items()
        ]
        own = [parameter for name, parameter in signature.parameters.items() if name != "options"]
        with_options.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        return with_options

    return add_options
