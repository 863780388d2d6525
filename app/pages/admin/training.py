"""The pages /admin/training: what the next run would do, all runs with their logs, and the newest sweep."""

import base64
from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlmodel import Session
from starlette.responses import Response

from app.api.ops.settings import current
from app.api.schemas import RunOut, page_of, run_out
from app.api.v1.sweeps import PointOut, newest_sweep
from app.api.v1.training_runs import read_log
from app.pages.admin.charts import CURVE, run_curves
from app.pages.admin.figures import shown_figures
from app.pages.admin.frame import show, show_part, write
from app.services import Services
from app.web.auth import Identity, ServicesHere
from storage.db import audit
from storage.db.ids import is_id
from storage.errors import InvalidInput, NotFound
from storage.registry.training_runs import cancel_run, get_run, list_runs, request_run
from storage.settings import frozen_settings
from storage.settings.shown import shown_value
from storage.settings.validators import variable
from trainer.gate.measures import MEASURES
from trainer.sweep.grid import shown_measures, table_cell

ADDRESS = "/admin/training"
SHOWN = 20
MOST_COMPARED = 4
LOG_CHARS, LOG_LINES = 100_000, 1000
SHAPING = ("training_mode", "learning_rate", "epochs", "beta", "lora_rank", "nll_weight", "sampled_prompts")

router = APIRouter(include_in_schema=False)


@router.get(ADDRESS)
def show_training(request: Request, services: ServicesHere, before: str = "") -> Response:
    def values(_: Identity) -> dict[str, Any]:
        newest = newest_run(services)  # before the list: a page that knows of a run's end does not follow it
        with services.database.read() as session:
            found = list_runs(session, limit=SHOWN + 1, before=before if is_id(before) else None)
            runs = page_of([run_out(session, run) for run in found], SHOWN)
        known = {one.name: one for one in current(services)}
        shaping = [known[variable(name)] for name in SHAPING]
        return {
            "figures": shown_figures(request, services)[0],
            "runs": runs,
            "before": before,
            "shaping": shaping,
            **newest,
        }

    return show(request, services, "training.html", values)


@router.get(f"{ADDRESS}/now")
def show_progress(request: Request, services: ServicesHere) -> Response:
    """The newest run, for the pages that follow it."""
    return show_part(request, services, "progress.html", lambda: newest_run(services))


@router.get(f"{ADDRESS}/sweep")
def show_sweep(request: Request, services: ServicesHere) -> Response:
    def values(_: Identity) -> dict[str, Any]:
        sweep, plot = newest_sweep(services) or (None, None)
        picture = plot.read_bytes() if plot is not None and plot.is_file() else b""
        measures = shown_measures(judged=sweep is not None and sweep.judge is not None)
        titles = [
            one.title if len(one.title) < 3 else one.title[0].upper() + one.title[1:] for one in measures
        ]

        def cells_of(point: PointOut) -> list[str]:
            return [table_cell(one, lambda name: getattr(point, name)) for one in measures]

        encoded = base64.b64encode(picture).decode()
        return {"sweep": sweep, "plot": encoded, "titles": titles, "cells_of": cells_of}

    return show(request, services, "sweep.html", values)


@router.get(f"{ADDRESS}/compare")
def compare_runs(request: Request, services: ServicesHere) -> Response:
    """Some runs side by side: what they trained on and with, and what came of it."""

    def values(_: Identity) -> dict[str, Any]:
        chosen = list(dict.fromkeys(request.query_params.getlist("run")))
        if not 2 <= len(chosen) <= MOST_COMPARED:
            raise InvalidInput(f"Choose two to {MOST_COMPARED} runs to compare.", field="run")
        runs = [_run(services, run_id) for run_id in chosen]
        for number, one in enumerate(runs, 1):
            one["title"] = one["run"].model_version or f"run {number}"
        rows = compared([(one["run"], one["settings"]) for one in runs])
        return {"runs": runs, "rows": rows, "curve_size": CURVE}

    return show(request, services, "compare_runs.html", values)


@router.get(f"{ADDRESS}/{{run_id}}")
def show_run(request: Request, services: ServicesHere, run_id: str) -> Response:
    def values(_: Identity) -> dict[str, Any]:
        return _run(services, run_id)

    return show(request, services, "run.html", values)


@router.get(f"{ADDRESS}/{{run_id}}/now")
def follow_run(request: Request, services: ServicesHere, run_id: str) -> Response:
    """The part of a run's page that changes while it is under way."""
    return show_part(request, services, "run_now.html", lambda: _run(services, run_id))


@router.post(ADDRESS)
def train(
    request: Request,
    services: ServicesHere,
    force: Annotated[bool, Form()] = False,
    fresh: Annotated[bool, Form()] = False,
) -> Response:
    def deed(session: Session, by: str) -> str:
        run = request_run(session, trigger="admin", requested_by=by, force=force, fresh=fresh)
        audit.record(session, by, "request run", run.id, force=force, fresh=fresh)
        return ""  # the progress says it, and goes on to say what became of it

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/{{run_id}}/cancel")
def cancel(request: Request, services: ServicesHere, run_id: str) -> Response:
    def deed(session: Session, by: str) -> str:
        run = cancel_run(session, _checked(run_id))
        audit.record(session, by, "cancel run", run.id)
        return ""

    return write(request, services, deed, ADDRESS)


def compared(runs: Sequence[tuple[RunOut, Sequence[tuple[str, str]]]]) -> list[tuple[str, list[str]]]:
    """The rows of a table with a column for each run: figures, then settings that are not the same in all."""
    figures = [_figures(run) for run, _ in runs]
    settings = [dict(one) for _, one in runs]
    names = dict.fromkeys(name for one in settings for name in one)
    rows = [(title, [one[title] for one in figures]) for title in figures[0]]
    for name in names:
        cells = [one.get(name, "–") for one in settings]
        if len(set(cells)) > 1:
            rows.append((name, cells))
    return rows


def _figures(run: RunOut) -> dict[str, str]:
    plan, training = run.metrics.get("plan") or {}, run.metrics.get("training") or {}
    measured = run.metrics.get("candidate") or {}
    counted_rows = f"{plan['up']} up, {plan['down']} down" if "up" in plan and "down" in plan else "–"
    return {
        "State": run.state,
        "Asked for by": run.trigger,
        "Rows": counted_rows,
        "Steps": str(training.get("steps", "–")),
        "Seconds a row": f"{training['seconds_per_row']:.2f}" if "seconds_per_row" in training else "–",
        **{
            f"Held out: {measure.title}": f"{measured[measure.name]:.{measure.digits}f}"
            if measured.get(measure.name) is not None
            else "–"
            for measure in MEASURES
        },
    }


def newest_run(services: Services) -> dict[str, Any]:
    """What `progress.html` shows."""
    with services.database.read() as session:
        newest = [run_out(session, run) for run in list_runs(session, limit=1)]
    return _drawn(newest[0]) if newest else {"run": None, "curves": []}


def _run(services: Services, run_id: str) -> dict[str, Any]:
    with services.database.read() as session:
        row = get_run(session, _checked(run_id))
        run = run_out(session, row)
    frozen = {name: value for name, value in row.settings.items() if name in frozen_settings("adapter")}
    log = read_log(services.settings.data_dir, row.log_path)[-LOG_CHARS:]
    return {
        **_drawn(run),
        "log": "\n".join(log.splitlines()[-LOG_LINES:]),
        "settings": [(variable(name), shown_value(name, value)) for name, value in frozen.items()],
    }


def _drawn(run: RunOut) -> dict[str, Any]:
    curves = run_curves(run.metrics if run.metrics.get("curve") else run.progress)
    return {"run": run, "curves": curves, "curve_size": CURVE}


def _checked(run_id: str) -> str:
    if not is_id(run_id):
        raise NotFound(f"There is no training run {run_id!r}.")
    return run_id
