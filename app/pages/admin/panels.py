"""What the admin page's panels show: the values for the templates in `templates/admin/`. Read-only.

Each function reads the values of a group of panels, which are refreshed together.
"""

import base64
from typing import Any

from pydantic import BaseModel

from app.api.schemas import run_out
from app.api.v1.feedback import ExportQuery
from app.api.v1.guard import current_guard
from app.api.v1.imports import ImportQuery
from app.api.v1.stats import current_figures, current_statistics
from app.api.v1.sweeps import PointOut, SweepOut, newest_sweep
from app.api.v1.training_runs import read_log
from app.pages.html import render
from app.services import Services
from storage.errors import Conflict
from storage.examples.filters import ExampleFilter
from storage.examples.weights import KEPT
from storage.imports.formats.table import FORMATS
from storage.registry.model_versions import roll_back_target
from storage.registry.training_runs import list_runs
from trainer.gate.measures import MEASURES
from trainer.sweep.grid import TITLES, shown_measures

RUNS_SHOWN = 10
LOG_CHARS, LOG_LINES = 20_000, 200


def figures(services: Services) -> dict[str, Any]:
    """What is cheap enough to read every second."""
    with services.database.read() as session:
        rows = list_runs(session, limit=RUNS_SHOWN)
        runs = [run_out(session, row) for row in rows]
        try:
            previous = roll_back_target(session).name
        except Conflict:
            previous = None
    log = read_log(services.settings.data_dir, rows[0].log_path) if rows else ""
    return {
        "figures": current_figures(services),
        "kept": KEPT,
        "runs": runs,
        "log": "\n".join(log[-LOG_CHARS:].splitlines()[-LOG_LINES:]),
        "measures": MEASURES,
        "previous": previous,
    }


def reports(services: Services) -> dict[str, Any]:
    """What needs a scan of every reply and vote."""
    sweep, plot = newest_sweep(services) or (None, None)
    picture = plot.read_bytes() if plot is not None and plot.is_file() else None
    return {
        "statistics": current_statistics(services),
        "guard": current_guard(services),
        **sweep_values(sweep, picture),
    }


def sweep_values(sweep: SweepOut | None, plot: bytes | None) -> dict[str, Any]:
    """The values of admin/sweep.html; `plot` is a PNG."""

    def cells_of(point: PointOut) -> list[str]:
        return shown_measures(lambda name: getattr(point, name))

    titles = [title if len(title) < 3 else title[0].upper() + title[1:] for title in TITLES]
    return {
        "sweep": sweep,
        "plot": base64.b64encode(plot).decode() if plot else None,
        "titles": titles,
        "cells_of": cells_of,
    }


def data_forms() -> str:
    """The export and import forms, from the models that the API validates with."""
    export, imports = _fields(ExportQuery), _fields(ImportQuery)
    imports["format"] |= {"enum": ["", *FORMATS]}
    filters = {name: export.pop(name) for name in ExampleFilter.model_fields}
    always = {name: imports.pop(name) for name in ("format", "skip_bad")}
    return render("admin/data.html", export=export, filters=filters, **{"import": always}, options=imports)


def _fields(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """The JSON schema of each field, by name."""
    return {
        name: schema | {"optional": "anyOf" in schema} | (schema["anyOf"][0] if "anyOf" in schema else {})
        for name, schema in model.model_json_schema()["properties"].items()
    }
