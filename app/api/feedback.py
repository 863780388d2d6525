"""Feedback as data: examples, export and import. For admins."""

import json
from collections.abc import AsyncIterator, Generator
from itertools import islice
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query, Request
from pydantic import BaseModel, ConfigDict, Field
from starlette.datastructures import UploadFile
from starlette.responses import Response, StreamingResponse

from app.auth import Admin, ServicesHere
from app.services import Services
from storage import audit, votes
from storage.duplicates import Contradictions, Duplicates
from storage.errors import InvalidInput
from storage.exports import Export, ExportPlan, Shape, export_jsonl
from storage.filters import ExampleFilter
from storage.import_formats import ImportOptions
from storage.imports import ImportReport, Rejection, import_file
from storage.redaction import load_redactor
from storage.secret import load_secret
from trainer.base_model import load_tokenizer
from trainer.tokenise import chat_template

router = APIRouter(tags=["feedback"])

KEPT_IN_MEMORY = 1024 * 1024
MEDIA_TYPES = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
EXPORT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The rows in the format that was asked for; the header X-Thumbloop-Snapshot names the "
        "snapshot.",
        "content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()},
    }
}


class ExamplesQuery(ExampleFilter):
    limit: int = Field(100, ge=1, le=1000)
    offset: int = Field(0, ge=0)


class ExportQuery(ExampleFilter):
    format: Literal["jsonl", "parquet", "csv"] = Field("jsonl", description="File format.")
    shape: Shape = Field("kto", description="kto, kto-text, pairs (for DPO) or sharegpt.")
    duplicates: Duplicates = Field("keep", description="drop: the same text and label only once.")
    contradictions: Contradictions = Field("keep", description="Votes of both kinds on the same text.")
    corrections: bool = Field(False, description="Add corrections as desirable examples.")
    redact: bool = Field(False, description="Replace personal data in all texts by placeholders.")
    snapshot: int | None = Field(
        None, ge=0, description="As of this vote event; otherwise all votes so far.", examples=[0]
    )


class ImportQuery(BaseModel):
    model_config = ConfigDict(extra="forbid")

    format: str | None = Field(None, description="Told from the data where it is not given.")
    skip_bad: bool = Field(False, description="true: leave bad records out and report them.")
    max_messages: int | None = Field(None, description="Drop longer conversations, the reply included.")
    min_rating: float | None = Field(None, description="Drop pairs whose chosen reply is rated below.")
    max_rating_rejected: float | None = Field(
        None, description="Drop pairs whose rejected reply is rated above."
    )
    score_column: str | None = Field(None, description="Where scores are.")
    up_from: float | None = Field(None, description="Scores from here on are thumbs up.")
    down_to: float | None = Field(None, description="Scores up to here are thumbs down.")

    @property
    def options(self) -> ImportOptions:
        return ImportOptions(**self.model_dump(exclude={"format", "skip_bad"}))


class Examples(BaseModel):
    snapshot: int
    items: list[dict[str, Any]]


class Rejected(BaseModel):
    position: str = Field(description="As in `line 3`, `element 3` or `row 3`.")
    line: int | None = Field(description="The same as a number; left out where the file has no lines.")
    reason: str


class Imported(BaseModel):
    accepted: int
    duplicates: int = Field(description="Rows that were there already.")
    rejected: list[Rejected] = Field(description="The first hundred of them.")
    rejected_records: int | None = Field(description="How many there are; left out where there are none.")
    dropped: dict[str, int] | None = Field(
        description="Rows that an option or the format dropped, by reason; left out where there are none."
    )


@router.get("/examples")
def list_examples(_: Admin, services: ServicesHere, query: Annotated[ExamplesQuery, Query()]) -> Examples:
    """What training would see now: the rows of an export, in the order of their votes."""
    salt = load_secret(services.settings.data_dir)
    with services.database.read() as session:
        snapshot = votes.latest_event_id(session)
        lines = export_jsonl(session, snapshot, salt, _filter(query))
        found = islice(lines, query.offset, query.offset + query.limit)
        return Examples(snapshot=snapshot, items=[json.loads(line) for line in found])


@router.get("/export", responses=EXPORT_ANSWERS, response_class=StreamingResponse)
def export(identity: Admin, services: ServicesHere, query: Annotated[ExportQuery, Query()]) -> Response:
    """The examples that the filters let through, as one file."""
    plan = ExportPlan(
        filter=_filter(query), **query.model_dump(include=ExportPlan.model_fields.keys() - {"filter"})
    )
    template = chat_template(load_tokenizer(services.source)) if plan.shape == "kto-text" else None
    settings = services.settings
    redactor = load_redactor(settings.redaction_language, settings.redaction_model) if plan.redact else None
    salt = load_secret(settings.data_dir)
    given: dict[str, Any] = {"salt": salt, "template": template, "redactor": redactor}
    with services.database.write() as session:
        # Made here too, because an answer that has begun can no longer turn into an error.
        snapshot = Export(session, plan, snapshot_event_id=query.snapshot, **given).snapshot_event_id
        audit.record(session, identity.name, "export", f"snapshot {snapshot}", format=plan.format)
    return StreamingResponse(
        _chunks(services, plan, given | {"snapshot_event_id": snapshot}),
        media_type=MEDIA_TYPES[plan.format],
        headers={
            "X-Thumbloop-Snapshot": str(snapshot),
            "Content-Disposition": f'attachment; filename="thumbloop-votes-{snapshot}.{plan.format}"',
            "Cache-Control": "no-store",
        },
    )


@router.post(
    "/import",
    openapi_extra={"requestBody": {"content": {"application/x-ndjson": {}, "multipart/form-data": {}}}},
    response_model_exclude_none=True,
)
async def import_feedback(
    request: Request, identity: Admin, services: ServicesHere, query: Annotated[ImportQuery, Query()]
) -> Imported:
    """Import a file of rated data: as the body, or as a multipart `file`. All rows or none."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidInput("The form has no file; send it as the field `file`.", field="file")
            name = file.filename or "upload"
            return await to_thread.run_sync(_import, services, identity.name, file.file, name, query)
    with SpooledTemporaryFile(max_size=KEPT_IN_MEMORY) as body:
        async for chunk in request.stream():
            body.write(chunk)
        return await to_thread.run_sync(_import, services, identity.name, body, "request", query)


def _import(services: Services, actor: str, file: IO[bytes], name: str, query: ImportQuery) -> Imported:
    report = import_file(
        services.database,
        file,
        name=name,
        format=query.format,
        options=query.options,
        skip_bad=query.skip_bad,
    )
    with services.database.write() as session:
        audit.record(session, actor, "import", name, accepted=report.accepted, rejected=report.rejected)
    return _imported(report)


def _imported(report: ImportReport) -> Imported:
    return Imported(
        accepted=report.accepted,
        duplicates=report.duplicates,
        rejected=[_rejected(rejection) for rejection in report.rejections],
        rejected_records=report.rejected or None,
        dropped=report.dropped or None,
    )


def _rejected(rejection: Rejection) -> Rejected:
    kind, _, number = rejection.position.partition(" ")
    line = int(number) if kind == "line" and number.isdigit() else None
    return Rejected(position=rejection.position, line=line, reason=rejection.reason)


def _filter(query: ExampleFilter) -> ExampleFilter:
    given = query.model_dump(include=set(ExampleFilter.model_fields), exclude_unset=True)
    return ExampleFilter(**given)


async def _chunks(services: Services, plan: ExportPlan, given: dict[str, Any]) -> AsyncIterator[bytes]:
    pieces = _pieces(services, plan, given)
    try:
        while (piece := await to_thread.run_sync(next, pieces, None)) is not None:
            yield piece
    finally:
        pieces.close()  # a client that hung up must not keep the transaction open


def _pieces(services: Services, plan: ExportPlan, given: dict[str, Any]) -> Generator[bytes, None, None]:
    with services.database.read() as session:
        yield from Export(session, plan, **given).chunks()
