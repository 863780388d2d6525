"""Exports feedback: a list of examples, and files of them. For admins."""

import re
from collections.abc import AsyncIterator, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal

from anyio import to_thread
from fastapi import APIRouter, Query
from pydantic import AfterValidator, BaseModel, Field
from starlette.responses import Response, StreamingResponse

from app.api.schemas import NO_CURSOR, Page
from app.services import Services
from app.web.auth import Admin, ServicesHere
from storage.chats import votes
from storage.db import audit
from storage.errors import InvalidInput
from storage.examples.example import Example, Examples
from storage.examples.filters import ExampleFilter, resolve
from storage.exports.exporter import Export
from storage.exports.plan import ExportOptions, ExportPlan
from storage.exports.redaction import load_redactor
from storage.exports.shapes import Shaper
from storage.files.installation_key import load_secret
from trainer.dataset.template import chat_template
from trainer.model.base_model import load_tokenizer

router = APIRouter(tags=["feedback"])

MOST_COUNTED = 5_000  # what half a second reads
MEDIA_TYPES = {
    "jsonl": "application/x-ndjson",
    "csv": "text/csv; charset=utf-8",
    "parquet": "application/vnd.apache.parquet",
}
EXPORT_ANSWERS: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "The rows in the requested format; the header X-Thumbloop-Snapshot has the snapshot.",
        "content": {kind: {"schema": {"type": "string"}} for kind in MEDIA_TYPES.values()},
    }
}


def _place(text: str) -> str:
    if not re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,18}\.[0-9]{1,9}", text):
        raise ValueError(NO_CURSOR)
    return text


class ExamplesQuery(ExampleFilter):
    limit: int = Field(100, ge=1, le=1000, description="The largest number of examples.")
    cursor: Annotated[str, AfterValidator(_place)] | None = Field(
        None,
        description="`next` of the previous page with the same filters; left out for the first one.",
    )


class ExportQuery(ExportOptions, ExampleFilter):
    format: Literal["jsonl", "parquet", "csv"] = Field("jsonl", description="File format.")
    snapshot: int | None = Field(
        None, ge=0, description="Export as of this vote event. Default: all votes so far.", examples=[0]
    )


class ExamplePage(Page[dict[str, Any]]):
    snapshot: int = Field(description="The snapshot of all pages; later votes do not change it.")


class RowCount(BaseModel):
    rows: int
    complete: bool = Field(description="false: there are more, which were not counted.")


@dataclass(frozen=True)
class Place:
    """Where a page begins: in a snapshot, after the first `seen` examples of a vote event."""

    snapshot: int
    event_id: int = 0
    seen: int = 0

    def after(self, event_id: int) -> "Place":
        return replace(self, event_id=event_id, seen=self.seen + 1 if event_id == self.event_id else 1)

    def __str__(self) -> str:
        return f"{self.snapshot}.{self.event_id}.{self.seen}"


@router.get("/examples")
def list_examples(_: Admin, services: ServicesHere, query: Annotated[ExamplesQuery, Query()]) -> ExamplePage:
    """The examples that training would read now: the rows of an export, in the order of their votes."""
    shaper = Shaper(load_secret(services.settings.data_dir))
    with services.database.read() as session:
        latest = votes.latest_event_id(session)
        place = Place(*map(int, query.cursor.split("."))) if query.cursor is not None else Place(latest)
        if place.snapshot > latest:
            raise InvalidInput(f"There is no snapshot {place.snapshot} yet.", field="cursor")
        wanted = resolve(session, _filter(query), salt=shaper.salt)
        examples = Examples(session, place.snapshot, wanted, token_ids=False).iterate(place.event_id - 1)
        items: list[dict[str, Any]] = []
        for example in _beyond(examples, place):
            if len(items) == query.limit:
                return ExamplePage(snapshot=place.snapshot, items=items, next=str(place))
            items.append(shaper.row("kto", example))
            place = place.after(example.event_id)
    return ExamplePage(snapshot=place.snapshot, items=items, next=None)


@router.get("/export", responses=EXPORT_ANSWERS, response_class=StreamingResponse)
def export(identity: Admin, services: ServicesHere, query: Annotated[ExportQuery, Query()]) -> Response:
    """The examples that match the filters, as one file."""
    plan, given = _planned(services, query)
    with services.database.write() as session:
        # Also built here, because errors cannot be reported once the answer has begun.
        snapshot = Export(session, plan, snapshot_event_id=query.snapshot, **given).snapshot_event_id
        audit.record(session, identity.user_id, "export", f"snapshot {snapshot}", format=plan.format)
    return StreamingResponse(
        _chunks(services, plan, given | {"snapshot_event_id": snapshot}),
        media_type=MEDIA_TYPES[plan.format],
        headers={
            "X-Thumbloop-Snapshot": str(snapshot),
            "Content-Disposition": f'attachment; filename="thumbloop-votes-{snapshot}.{plan.format}"',
            "Cache-Control": "no-store",
        },
    )


@router.get("/export/count")
def count_rows(_: Admin, services: ServicesHere, query: Annotated[ExportQuery, Query()]) -> RowCount:
    """How many rows an export with these parameters has, before one makes it; 20,000 are counted at most."""
    shape = "kto" if query.shape == "kto-text" else query.shape  # as many rows, and no tokenizer to load
    plan, given = _planned(services, query.model_copy(update={"shape": shape, "redact": False}))
    with services.database.read() as session:
        export = Export(session, plan, snapshot_event_id=query.snapshot, **given)
        rows = export.count(MOST_COUNTED + 1)
    return RowCount(rows=min(rows, MOST_COUNTED), complete=rows <= MOST_COUNTED)


@router.get("/export/manifest")
def export_manifest(
    _: Admin, services: ServicesHere, query: Annotated[ExportQuery, Query()]
) -> dict[str, Any]:
    """The manifest of an export with these parameters: counts, filters, snapshot, size and sha256.

    It reads all rows and takes as long as the export. Give the export's snapshot.
    """
    plan, given = _planned(services, query)
    with services.database.read() as session:
        export = Export(session, plan, snapshot_event_id=query.snapshot, **given)
        for _chunk in export.chunks():
            pass
        return export.manifest()


def _planned(services: Services, query: ExportQuery) -> tuple[ExportPlan, dict[str, Any]]:
    """The export's plan, and further arguments for Export."""
    plan = ExportPlan(filter=_filter(query), **query.model_dump(include=set(ExportOptions.model_fields)))
    settings, source = services.settings, services.source
    template = None
    if plan.shape == "kto-text" and source is not None:
        template = chat_template(load_tokenizer(source))
    return plan, {
        "salt": load_secret(settings.data_dir),
        "template": template,
        "redactor": (
            load_redactor(settings.redaction_language, settings.redaction_model) if plan.redact else None
        ),
    }


def _filter(query: ExampleFilter) -> ExampleFilter:
    given = query.model_dump(include=set(ExampleFilter.model_fields), exclude_unset=True)
    return ExampleFilter(**given)


def _beyond(examples: Iterator[Example], place: Place) -> Iterator[Example]:
    return (
        example
        for number, example in enumerate(examples)
        if number >= place.seen or example.event_id != place.event_id
    )


async def _chunks(services: Services, plan: ExportPlan, given: dict[str, Any]) -> AsyncIterator[bytes]:
    pieces = _pieces(services, plan, given)
    try:
        while (piece := await to_thread.run_sync(next, pieces, None)) is not None:
            yield piece
    finally:
        pieces.close()  # a client that disconnected must not keep the transaction open


def _pieces(services: Services, plan: ExportPlan, given: dict[str, Any]) -> Generator[bytes, None, None]:
    with services.database.read() as session:
        yield from Export(session, plan, **given).chunks()
