"""Feedback as data: statistics, examples, export and import. For admins."""

from collections.abc import AsyncIterator, Generator
from datetime import datetime
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, Field
from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse

from app.api.model_versions import all_versions
from app.api.shapes import VersionOut
from app.auth import Admin, ServicesHere
from app.services import Services
from storage import audit, votes
from storage.errors import InvalidInput
from storage.examples import iter_examples
from storage.exports import export_jsonl
from storage.imports import import_jsonl
from storage.secret import load_secret
from storage.training_runs import active_run
from trainer.readiness import check_readiness
from trainer.weights import class_weights

router = APIRouter(tags=["feedback"])

FORMATS = ("jsonl",)
KEPT_IN_MEMORY = 1024 * 1024
CHUNK = 64 * 1024
EXPORT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "One row of TRL's unpaired preference format per line; the header "
        "X-Thumbloop-Snapshot names the snapshot.",
        "content": {"application/x-ndjson": {"schema": {"type": "string"}}},
    }
}


class Votes(BaseModel):
    up: int
    down: int


class WeightsOut(BaseModel):
    desirable: float | None = Field(description="null until there are votes of both kinds.")
    undesirable: float | None


class ReadinessOut(BaseModel):
    ready: bool
    reason: str


class ScheduleOut(BaseModel):
    description: str
    next_run: datetime | None


class Stats(BaseModel):
    votes: Votes
    weights: WeightsOut
    versions: list[VersionOut]
    readiness: ReadinessOut
    schedule: ScheduleOut
    active_run: str | None = Field(description="The id of the run that is requested or running.")


class Examples(BaseModel):
    snapshot: int
    items: list[dict[str, Any]]


class Rejected(BaseModel):
    line: int
    reason: str


class Imported(BaseModel):
    accepted: int
    duplicates: int = Field(description="Rows that were there already.")
    rejected: list[Rejected]


@router.get("/stats")
def stats(_: Admin, services: ServicesHere) -> Stats:
    """Votes that training may use, the weights that follow from them, versions, readiness, schedule."""
    settings = services.settings
    with services.database.read() as session:
        counts = votes.count_votes(session)
        voters = votes.count_voters(session)
        versions = all_versions(session)
        active = active_run(session)
    weights = WeightsOut(desirable=None, undesirable=None)
    if counts.up and counts.down:
        found = class_weights(counts.up, counts.down, settings.max_weight)
        weights = WeightsOut(desirable=found.desirable, undesirable=found.undesirable)
    readiness = check_readiness(
        ups=counts.up,
        downs=counts.down,
        voters=voters,
        trainable_rows=counts.up + counts.down,
        settings=settings,
    )
    return Stats(
        votes=Votes(up=counts.up, down=counts.down),
        weights=weights,
        versions=versions,
        readiness=ReadinessOut(ready=readiness.ready, reason=readiness.reason),
        schedule=ScheduleOut(
            description=services.schedule.describe(), next_run=services.schedule.next_run_time()
        ),
        active_run=active.id if active is not None else None,
    )


@router.get("/examples")
def list_examples(
    _: Admin,
    services: ServicesHere,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
    offset: Annotated[int, Query(ge=0)] = 0,
) -> Examples:
    """What training would see now: KTO rows in the order of their votes."""
    salt = load_secret(services.settings.data_dir)
    with services.database.read() as session:
        snapshot = votes.latest_event_id(session)
        found = islice(iter_examples(session, snapshot), offset, offset + limit)
        return Examples(snapshot=snapshot, items=[example.to_row(salt=salt) for example in found])


@router.get("/export", responses=EXPORT_ANSWERS, response_class=StreamingResponse)
def export(
    identity: Admin,
    services: ServicesHere,
    format: Annotated[str, Query(description="jsonl: TRL's unpaired preference rows.")] = "jsonl",
) -> Response:
    """Every example, as one file."""
    if format not in FORMATS:
        raise InvalidInput(
            f"The format {format!r} is not known; known are: {', '.join(FORMATS)}.", field="format"
        )
    salt = load_secret(services.settings.data_dir)
    with services.database.write() as session:
        snapshot = votes.latest_event_id(session)
        audit.record(session, identity.name, "export", f"snapshot {snapshot}", format=format)
    return StreamingResponse(
        _chunks(services, snapshot, salt),
        media_type="application/x-ndjson",
        headers={
            "X-Thumbloop-Snapshot": str(snapshot),
            "Content-Disposition": f'attachment; filename="thumbloop-votes-{snapshot}.jsonl"',
            "Cache-Control": "no-store",
        },
    )


@router.post("/import", openapi_extra={"requestBody": {"content": {"application/x-ndjson": {}}}})
async def import_feedback(
    request: Request,
    identity: Admin,
    services: ServicesHere,
    skip_bad: Annotated[bool, Query(description="true: leave bad rows out and report them.")] = False,
) -> Imported:
    """Import TRL KTO rows: JSON lines as the body, or as a multipart `file`. All rows or none."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidInput("The form has no file; send it as the field `file`.", field="file")
            name = file.filename or "upload"
            return await to_thread.run_sync(_import, services, identity.name, file.file, name, skip_bad)
    with SpooledTemporaryFile(max_size=KEPT_IN_MEMORY) as body:
        async for chunk in request.stream():
            body.write(chunk)
        body.seek(0)
        return await to_thread.run_sync(_import, services, identity.name, body, "request", skip_bad)


def _import(services: Services, actor: str, lines: IO[bytes], name: str, skip_bad: bool) -> Imported:
    report = import_jsonl(services.database, lines, source_name=name, skip_bad=skip_bad)
    with services.database.write() as session:
        audit.record(session, actor, "import", name, accepted=report.accepted, rejected=len(report.rejected))
    return Imported(
        accepted=report.accepted,
        duplicates=report.duplicates,
        rejected=[Rejected(line=line, reason=reason) for line, reason in report.rejected],
    )


async def _chunks(services: Services, snapshot: int, salt: bytes) -> AsyncIterator[str]:
    lines = _lines(services, snapshot, salt)
    try:
        while (chunk := await to_thread.run_sync(next, lines, None)) is not None:
            yield chunk
    finally:
        lines.close()  # a client that hung up must not keep the transaction open


def _lines(services: Services, snapshot: int, salt: bytes) -> Generator[str, None, None]:
    """Lines, gathered into chunks that are worth a trip to a thread."""
    gathered: list[str] = []
    size = 0
    with services.database.read() as session:
        for line in export_jsonl(session, snapshot, salt):
            gathered.append(line)
            size += len(line)
            if size >= CHUNK:
                yield "".join(gathered)
                gathered, size = [], 0
    if gathered:
        yield "".join(gathered)
