"""The pages /admin/training: what the next run would do, all runs with their logs, and the newest sweep."""

import base64
from typing import Annotated, Any

from fastapi import APIRouter, Form, Request
from sqlmodel import Session
from starlette.responses import Response

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
from storage.errors import NotFound
from storage.registry.training_runs import cancel_run, get_run, list_runs, request_run
from storage.settings import frozen_settings
from storage.settings.shown import shown_value
from storage.settings.validators import variable
from trainer.sweep.grid import TITLES, shown_measures

ADDRESS = "/admin/training"
SHOWN = 20
LOG_CHARS, LOG_LINES = 100_000, 1000
SHAPING = ("training_mode", "learning_rate", "epochs", "beta", "lora_rank", "nll_weight", "sampled_prompts")

router = APIRouter(include_in_schema=False)


@router.get(ADDRESS)
def show_training(request: Request, services: ServicesHere, before: str = "") -> Response:
    def values(_: Identity) -> dict[str, Any]:
        with services.database.read() as session:
            found = list_runs(session, limit=SHOWN + 1, before=before if is_id(before) else None)
            runs = page_of([run_out(session, run) for run in found], SHOWN)
        settings = services.settings
        shaping = [(variable(name), shown_value(name, getattr(settings, name))) for name in SHAPING]
        return {
            "figures": shown_figures(request, services)[0],
            "runs": runs,
            "before": before,
            "shaping": shaping,
            **newest_run(services),
        }

    return show(request, services, "training.html", values)


@router.get(f"{ADDRESS}/now")
def show_progress(request: Request, services: ServicesHere) -> Response:
    """The newest run, for the pages that follow it."""
    return show_part(request, services, "progress.html", lambda: newest_run(services))


@router.get(f"{ADDRESS}/sweep")
def show_sweep(request: Request, services: ServicesHere) -> Response:
    def cells_of(point: PointOut) -> list[str]:
        return shown_measures(lambda name: getattr(point, name))

    def values(_: Identity) -> dict[str, Any]:
        sweep, plot = newest_sweep(services) or (None, None)
        picture = plot.read_bytes() if plot is not None and plot.is_file() else b""
        titles = [title if len(title) < 3 else title[0].upper() + title[1:] for title in TITLES]
        encoded = base64.b64encode(picture).decode()
        return {"sweep": sweep, "plot": encoded, "titles": titles, "cells_of": cells_of}

    return show(request, services, "sweep.html", values)


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
