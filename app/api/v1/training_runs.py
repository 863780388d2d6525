"""Training runs: request one, follow it, read its log, cancel it. For admins."""

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from anyio import to_thread
from fastapi import APIRouter
from pydantic import Field, StrictBool
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from app.api.replies import EVENT_SCHEMA, PING, PING_SECONDS, EventResponse, sse
from app.api.schemas import Cursor, Id, Limit, Page, RunOut, page_of, run_out
from app.services import Services
from app.web.auth import Admin, ServicesHere
from app.web.openapi_names import Body
from storage.db import audit
from storage.registry import training_runs
from storage.registry.training_runs import OVER

router = APIRouter(prefix="/training-runs", tags=["training runs"])

POLL_SECONDS = 0.5
LOG_BYTES = 1024 * 1024
EVENT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "Server-sent events: `progress` with the run at each change, then `done`.",
        "content": {"text/event-stream": {"schema": EVENT_SCHEMA}},
    }
}
# Declared here and not by the response class, which would also declare the refusals as plain text.
LOG_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The log.", "content": {"text/plain": {"schema": {"type": "string"}}}}
}


class NewRun(Body, json_schema_extra={"examples": [{"force": False}]}):
    force: StrictBool = Field(False, description="Train even if the readiness check fails.")
    fresh: StrictBool = Field(
        False, description="Start from the base model even if THUMBLOOP_TRAINING_MODE=continue."
    )


@router.post("", status_code=202)
def request_run(identity: Admin, services: ServicesHere, body: NewRun | None = None) -> RunOut:
    """Request a training run; 409 while another one is requested or running."""
    body = body or NewRun()
    with services.database.write() as session:
        run = training_runs.request_run(
            session, trigger="api", requested_by=identity.user_id, force=body.force, fresh=body.fresh
        )
        audit.record(session, identity.user_id, "request run", run.id, force=body.force, fresh=body.fresh)
        return run_out(session, run)


@router.get("")
def list_runs(_: Admin, services: ServicesHere, limit: Limit = 20, cursor: Cursor = None) -> Page[RunOut]:
    """The runs, newest first."""
    with services.database.read() as session:
        found = training_runs.list_runs(session, limit=limit + 1, before=cursor)
        return page_of([run_out(session, run) for run in found], limit)


@router.get("/{run_id}")
def get_run(run_id: Id, _: Admin, services: ServicesHere) -> RunOut:
    """A run with its progress and its result."""
    return _read(services, run_id)


@router.get("/{run_id}/events", responses=EVENT_ANSWERS, response_class=StreamingResponse)
async def follow_run(run_id: Id, _: Admin, services: ServicesHere) -> Response:
    """Follow a run until it is over."""
    await to_thread.run_sync(_read, services, run_id)
    return EventResponse(_events(services, run_id))


@router.get("/{run_id}/log", responses=LOG_ANSWERS, response_class=Response)
def get_log(run_id: Id, _: Admin, services: ServicesHere) -> PlainTextResponse:
    """The last megabyte of the run's log; empty before the run begins."""
    with services.database.read() as session:
        run = training_runs.get_run(session, run_id)
    return PlainTextResponse(read_log(services.settings.data_dir, run.log_path))


@router.post("/{run_id}/cancel")
def cancel_run(run_id: Id, identity: Admin, services: ServicesHere) -> RunOut:
    """Cancel a requested run at once, or ask a running trainer to stop. 409 if the run is over."""
    with services.database.write() as session:
        run = training_runs.cancel_run(session, run_id)
        audit.record(session, identity.user_id, "cancel run", run.id)
        return run_out(session, run)


def read_log(data_dir: Path, log_path: str | None) -> str:
    path = data_dir / log_path if log_path is not None else None
    if path is None or not path.is_file():
        return ""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(0, size - LOG_BYTES))
        return file.read(LOG_BYTES).decode("utf-8", "replace")


def _read(services: Services, run_id: str) -> RunOut:
    with services.database.read() as session:
        return run_out(session, training_runs.get_run(session, run_id))


async def _events(services: Services, run_id: str) -> AsyncIterator[str]:
    seen: RunOut | None = None
    spoke = time.monotonic()
    while True:
        run = await to_thread.run_sync(_read, services, run_id)
        over = run.state in OVER
        if run != seen or over:
            yield sse("done" if over else "progress", run.model_dump(mode="json"))
            seen, spoke = run, time.monotonic()
        elif time.monotonic() - spoke > PING_SECONDS:
            yield PING
            spoke = time.monotonic()
        if over:
            return
        await asyncio.sleep(POLL_SECONDS)
