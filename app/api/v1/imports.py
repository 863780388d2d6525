"""Imports feedback: a file of rated data as the body or in a form. For admins."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
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
from storage.db import audit
from storage.errors import InvalidInput
from storage.imports import requests
from storage.imports.formats import ImportOptions
from storage.imports.importer import import_file
from storage.imports.reader import ImportReport, Rejection

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
        description="Your own name for this import: sent again with it, the request gets the same answer "
        "(`Idempotent-Replayed: true`) for 30 days and imports nothing.",
    ),
]


class ImportQuery(ImportOptions):
    format: str | None = Field(None, description="Detected from the data where it is not given.")
    skip_bad: bool = Field(False, description="true: leave bad records out and report them.")

    @property
    def options(self) -> ImportOptions:
        return ImportOptions(**self.model_dump(include=set(ImportOptions.model_fields)))


class Rejected(BaseModel):
    position: str = Field(description="As in `line 3`, `element 3` or `row 3`.")
    line: int | None = Field(None, description="The same as a number; left out where the file has no lines.")
    reason: str


class Imported(BaseModel):
    accepted: int
    duplicates: int = Field(description="Rows that were there already.")
    rejected: list[Rejected] = Field(description="The first hundred of them.")
    rejected_records: int | None = Field(
        None, description="How many there are; left out where there are none."
    )
    dropped: dict[str, int] | None = Field(
        None,
        description="Rows that an option or the format dropped, by reason; left out where there are none.",
    )


@router.post("/import", openapi_extra=FILE_BODY, response_model_exclude_none=True)
async def import_feedback(
    request: Request,
    response: Response,
    identity: Admin,
    services: ServicesHere,
    query: Annotated[ImportQuery, Query()],
    key: Key = None,
) -> Imported:
    """Import a file of rated data: as the body, or as a multipart `file`. All rows or none."""
    if request.headers.get("content-type", "").startswith("multipart/form-data"):
        async with request.form(max_files=1) as form:
            file = form.get("file")
            if not isinstance(file, UploadFile):
                raise InvalidInput("The form has no file; send it as the field `file`.", field="file")
            job = _Job(services, identity, file.file, file.filename or "upload", query)
            return await to_thread.run_sync(job.run, key, response)
    with SpooledTemporaryFile(max_size=KEPT_IN_MEMORY) as body:
        async for chunk in request.stream():
            body.write(chunk)
        job = _Job(services, identity, body, "request", query)
        return await to_thread.run_sync(job.run, key, response)


@dataclass(frozen=True)
class _Job:
    """One import, with or without an idempotency key."""

    services: Services
    identity: Identity
    file: IO[bytes]
    name: str
    query: ImportQuery

    def run(self, key: str | None, response: Response) -> Imported:
        if key is None:
            return self._import(lambda session, imported: None)
        database, user_id, sha256 = self.services.database, self.identity.user_id, self._sha256()
        with requests.one_at_a_time(database, user_id, key):
            with database.read() as session:
                stored = requests.stored_report(session, user_id, key, sha256)
            if stored is not None:
                response.headers["Idempotent-Replayed"] = "true"
                return Imported(**stored)
            return self._import(
                lambda session, imported: requests.store_report(
                    session, user_id, key, sha256, imported.model_dump(mode="json")
                )
            )

    def _import(self, remember: Callable[[Session, Imported], None]) -> Imported:
        def finish(session: Session, report: ImportReport) -> None:
            audit.record(
                session,
                self.identity.name,
                "import",
                self.name,
                accepted=report.accepted,
                rejected=report.rejected,
            )
            remember(session, _imported(report))

        report = import_file(
            self.services.database,
            self.file,
            name=self.name,
            format=self.query.format,
            options=self.query.options,
            skip_bad=self.query.skip_bad,
            finish=finish,
        )
        return _imported(report)

    def _sha256(self) -> str:
        """The SHA-256 of the options and the file's bytes; the file's name does not matter."""
        digest = hashlib.sha256(json.dumps(self.query.model_dump(), sort_keys=True).encode())
        self.file.seek(0)
        while chunk := self.file.read(KEPT_IN_MEMORY):
            digest.update(chunk)
        self.file.seek(0)
        return digest.hexdigest()


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
