"""Imports feedback: a file of rated data as the body or in a form. For admins."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, nullcontext
from datetime import datetime
from tempfile import SpooledTemporaryFile
from typing import IO, Annotated

from anyio import to_thread
from fastapi import APIRouter, Header, Query, Request
from pydantic import BaseModel, Field
from sqlmodel import Session
from starlette.datastructures import UploadFile
from starlette.responses import Response

from app.services import Services
from app.web.auth import Admin, Identity, ServicesHere
from app.web.openapi_names import Body
from storage.db import audit
from storage.errors import InvalidInput
from storage.imports import requests
from storage.imports.column_maps import (
    list_column_maps,
    remove_column_map,
    save_column_map,
    with_saved_columns,
)
from storage.imports.importer import import_file
from storage.imports.preview import preview_file
from storage.imports.reader import ImportReport, Rejection
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import ImportedRow

router = APIRouter(tags=["feedback"])

KEPT_IN_MEMORY = 1024 * 1024
EXAMPLE = (
    '{"prompt": [{"role": "user", "content": "What is 2 + 2?"}], '
    '"completion": [{"role": "assistant", "content": "4"}], "label": true}\n'
)
FILE_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-ndjson": {"schema": {"type": "string", "format": "binary"}, "example": EXAMPLE},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"file": {"type": "string", "format": "binary"}},
                    "required": ["file"],
                }
            },
        },
    }
}
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=255,
        pattern=r"^[!-~]+$",
        description="A name of your own for this import. For 30 days, another request with it imports "
        "nothing and gets the same answer (`Idempotent-Replayed: true`).",
    ),
]


class ImportQuery(ImportOptions):
    format: str | None = Field(None, description="Detected from the data if not given.")
    skip_bad: bool = Field(False, description="true: leave out bad records and report them.")

    def options(self, services: Services) -> ImportOptions:
        given = ImportOptions(**self.model_dump(include=set(ImportOptions.model_fields)))
        with services.database.read() as session:
            return with_saved_columns(session, given)


class Rejected(BaseModel):
    position: str = Field(description="Such as `line 3`, `element 3` or `row 3`.")
    line: int | None = Field(None, description="The line as a number; left out if the file has no lines.")
    reason: str


class Imported(BaseModel):
    accepted: int
    duplicates: int = Field(description="Rows that an earlier import brought.")
    changed: int | None = Field(
        None,
        description="Votes of an earlier import that their people changed since; left out if there are none.",
    )
    rejected: list[Rejected] = Field(description="The first hundred of them.")
    rejected_records: int | None = Field(None, description="How many there are; left out if there are none.")
    dropped: dict[str, int] | None = Field(
        None,
        description="Rows that an option or the format dropped, by reason; left out if there are none.",
    )
    left_out: dict[str, int] | None = Field(
        None,
        description="Columns that were not imported, and in how many records; left out if there are none.",
    )


class ColumnMapIn(Body):
    name: str
    columns: str = Field(description="Such as `prompt=question,reply=answer`.")


class ColumnMapOut(BaseModel, from_attributes=True):
    name: str
    columns: str
    created_at: datetime


class ColumnMaps(BaseModel):
    items: list[ColumnMapOut]


@router.get("/import/columns")
def list_columns(_: Admin, services: ServicesHere) -> ColumnMaps:
    """The saved maps of columns, by name. `columns` of an import may be such a name."""
    with services.database.read() as session:
        return ColumnMaps(items=[ColumnMapOut.model_validate(one) for one in list_column_maps(session)])


@router.post("/import/columns")
def save_columns(body: ColumnMapIn, identity: Admin, services: ServicesHere) -> ColumnMapOut:
    """Save a map of columns under a name, or change the one of that name."""
    with services.database.write() as session:
        saved = save_column_map(session, body.name, body.columns, by=identity.user_id)
        return ColumnMapOut.model_validate(saved)


@router.delete("/import/columns/{name}", status_code=204)
def remove_columns(name: str, identity: Admin, services: ServicesHere) -> None:
    """Remove a saved map of columns. What was imported with it stays."""
    with services.database.write() as session:
        remove_column_map(session, name, by=identity.user_id)


@router.post("/import", openapi_extra=FILE_BODY, response_model_exclude_none=True)
async def import_feedback(
    request: Request,
    response: Response,
    identity: Admin,
    services: ServicesHere,
    query: Annotated[ImportQuery, Query()],
    key: Key = None,
) -> Imported:
    """Import a file of rated data, sent as the body or as a multipart `file`. Imports all rows or none."""
    async with _file_of(request) as (file, name):
        return await to_thread.run_sync(_import, services, identity, file, name, query, key, response)


class PreviewedMessage(BaseModel):
    role: str
    content: str
    reasoning: str = Field("", description="Of a reply: what the model thought before it.")


class PreviewedRow(BaseModel):
    position: str
    prompt: list[PreviewedMessage]
    reply: str
    reasoning: str = Field("", description="What the model thought before the reply.")
    cut: bool = Field(False, description="The reply ended at a token limit.")
    label: bool
    tags: list[str]
    comment: str | None
    correction: str | None
    model: str | None


class Previewed(BaseModel):
    """What an import would do; `rows` has the first rows."""

    format: str | None
    up: int
    down: int
    rows: list[PreviewedRow]
    rejected: list[Rejected] = Field(description="The first hundred of them.")
    rejected_records: int
    dropped: dict[str, int]
    left_out: dict[str, int] = Field(description="Columns that are not imported, and in how many records.")


@router.post("/import/preview", openapi_extra=FILE_BODY)
async def preview_import(
    request: Request, _: Admin, services: ServicesHere, query: Annotated[ImportQuery, Query()]
) -> Previewed:
    """Read a file as `POST /import` would, and store nothing: the first rows, and the report."""
    async with _file_of(request) as (file, name):
        return await to_thread.run_sync(_preview, services, file, name, query)


def _preview(services: Services, file: IO[bytes], name: str, query: ImportQuery) -> Previewed:
    found = preview_file(file, name=name, format=query.format, options=query.options(services))
    return Previewed(
        format=found.report.format,
        up=found.up,
        down=found.down,
        rows=[_previewed(position, row) for position, row in found.rows],
        rejected=[_rejected(rejection) for rejection in found.report.rejections],
        rejected_records=found.report.rejected,
        dropped=found.report.dropped,
        left_out=found.report.left_out,
    )


def _previewed(position: str, row: ImportedRow) -> PreviewedRow:
    *prompt, reply = row.turns
    return PreviewedRow(
        position=position,
        prompt=[PreviewedMessage(**turn._asdict()) for turn in prompt],
        reply=reply.content,
        reasoning=reply.reasoning,
        cut=row.cut,
        label=row.label,
        tags=list(row.tags),
        comment=row.comment,
        correction=row.correction,
        model=row.model,
    )


@asynccontextmanager
async def _file_of(request: Request) -> AsyncIterator[tuple[IO[bytes], str]]:
    """The file of the request, from a multipart form or as the body, and its name."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidInput("The form has no file; send it as the field `file`.", field="file")
            yield file.file, file.filename or "upload"
            return
    with SpooledTemporaryFile(max_size=KEPT_IN_MEMORY) as body:
        async for chunk in request.stream():
            body.write(chunk)
        yield body, "request"


def _import(
    services: Services,
    identity: Identity,
    file: IO[bytes],
    name: str,
    query: ImportQuery,
    key: str | None,
    response: Response,
) -> Imported:
    """Import the file, or answer as before if the idempotency key is known."""
    database, user_id = services.database, identity.user_id
    sha256 = _sha256(query, file) if key is not None else ""
    with requests.one_at_a_time(database, user_id, key) if key is not None else nullcontext():
        if key is not None:
            with database.read() as session:
                stored = requests.stored_report(session, user_id, key, sha256)
            if stored is not None:
                response.headers["Idempotent-Replayed"] = "true"
                return Imported(**stored)

        def finish(session: Session, report: ImportReport) -> None:
            counts = {"accepted": report.accepted, "rejected": report.rejected}
            audit.record(session, identity.user_id, "import", name, **counts)
            if key is not None:
                answer = _imported(report).model_dump(mode="json")
                requests.store_report(session, user_id, key, sha256, answer)

        report = import_file(
            database,
            file,
            name=name,
            format=query.format,
            options=query.options(services),
            skip_bad=query.skip_bad,
            finish=finish,
        )
    return _imported(report)


def _sha256(query: ImportQuery, file: IO[bytes]) -> str:
    """The SHA-256 of the options and the file's bytes; the file's name does not matter."""
    digest = hashlib.sha256(json.dumps(query.model_dump(), sort_keys=True).encode())
    file.seek(0)
    while chunk := file.read(KEPT_IN_MEMORY):
        digest.update(chunk)
    file.seek(0)
    return digest.hexdigest()


def _imported(report: ImportReport) -> Imported:
    return Imported(
        accepted=report.accepted,
        duplicates=report.duplicates,
        changed=report.changed or None,
        rejected=[_rejected(rejection) for rejection in report.rejections],
        rejected_records=report.rejected or None,
        dropped=report.dropped or None,
        left_out=report.left_out or None,
    )


def _rejected(rejection: Rejection) -> Rejected:
    kind, _, number = rejection.position.partition(" ")
    line = int(number) if kind == "line" and number.isdigit() else None
    return Rejected(position=rejection.position, line=line, reason=rejection.reason)
