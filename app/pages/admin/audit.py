"""The page /admin/audit: who did what to what, newest first."""

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.pages.admin.frame import admin_of, admin_page
from app.web.auth import ServicesHere
from storage.db.audit import list_actions, list_events
from storage.db.ids import is_id

ADDRESS = "/admin/audit"
SHOWN = 100
FILTERS = ("actor", "action", "target")

router = APIRouter(include_in_schema=False)


@router.get(ADDRESS)
def show(request: Request, services: ServicesHere) -> Response:
    identity = admin_of(request, services)
    if isinstance(identity, Response):
        return identity
    given = {name: request.query_params[name] for name in FILTERS if request.query_params.get(name)}
    before = request.query_params.get("before", "")

    def link(**changes: str) -> str:
        return f"{ADDRESS}?{urlencode(given | changes)}"

    with services.database.read() as session:
        wanted = {name: given.get(name) for name in FILTERS}
        start = before if is_id(before) else None
        events = list_events(session, **wanted, limit=SHOWN + 1, before=start)
        actions = list_actions(session)
    older = events[SHOWN - 1].id if events[SHOWN:] else ""
    shown: dict[str, Any] = {"events": events[:SHOWN], "older": older, "before": before, "actions": actions}
    return admin_page(request, "audit.html", given=given, link=link, **shown)
