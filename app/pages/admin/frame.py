"""What the admin's pages share: their frame, who may open them, their files, and how a form acts.

Plain HTML. Every form works without scripts: it is sent, and the page that follows says what became of it.
"""

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import quote, unquote

from fastapi import APIRouter, Request
from sqlmodel import Session
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from app.pages.html import ASSETS, render
from app.services import Services
from app.web.auth import Identity, resolve
from app.web.languages import language_in
from app.web.sign_in import page_refusal
from storage.errors import ThumbloopError

FILES = ("admin.css", "admin.js", "data.js")
PAGES = {
    "/admin/": ("Overview", "gauge"),
    "/admin/feedback": ("Feedback", "thumbs-up"),
    "/admin/training": ("Training", "activity"),
    "/admin/versions": ("Versions", "layers"),
    "/admin/people": ("People", "users"),
    "/admin/data": ("Data", "arrow-down-up"),
    "/admin/settings": ("Settings", "settings"),
    "/admin/audit": ("Audit", "scroll-text"),
}
NOTICE = "thumbloop_notice"  # a cookie: the result of a form, for the next page
LONGEST_NOTICE = 1000

router = APIRouter(include_in_schema=False)


@router.get("/admin/files/{file}")
def asset(file: str) -> Response:
    if file not in FILES:
        raise HTTPException(404)
    return FileResponse(ASSETS / file)


def admin_of(request: Request, services: Services) -> Identity | Response:
    """The admin who asks, or what others get instead."""
    secure = request.url.scheme == "https"
    identity = resolve(services.database, {}, request.cookies, secure=secure, admin=True)
    target = f"{request.url.path}?{request.url.query}".removesuffix("?")
    refusal = page_refusal(identity, target, language_in(request), auth=services.settings.auth, admin=True)
    if refusal is None:
        assert identity is not None
        return identity
    return refusal


def admin_page(request: Request, template: str, status: int = 200, **values: Any) -> Response:
    """A page of the admin's, with the result of the form that led to it."""
    notice = _read_notice(request.cookies.get(NOTICE, ""))
    place = next((at for at in reversed(PAGES) if request.url.path.startswith(at)), "/admin/")
    services: Services = request.app.state.services
    frame: dict[str, Any] = {"pages": PAGES, "place": place, "notice": notice, "title": PAGES[place][0]}
    frame["demonstration"] = services.demonstration
    response = HTMLResponse(
        render(f"admin/{template}", **frame | values), status, headers={"Cache-Control": "no-store"}
    )
    if notice is not None:
        response.delete_cookie(NOTICE)
    return response


def show(
    request: Request, services: Services, template: str, values: Callable[[Identity], dict[str, Any]]
) -> Response:
    """A page for admins with what `values` reads; an error that it raises is shown in its place."""
    identity = admin_of(request, services)
    if isinstance(identity, Response):
        return identity
    try:
        return admin_page(request, template, **values(identity))
    except ThumbloopError as error:
        return admin_page(request, "error.html", error.status, error=error)


def show_part(
    request: Request, services: Services, template: str, values: Callable[[], dict[str, Any]]
) -> Response:
    """A part of a page, which a script draws again."""
    identity = admin_of(request, services)
    if isinstance(identity, Response):
        return identity
    try:
        html = render(f"admin/{template}", **values())
    except ThumbloopError as error:
        return HTMLResponse("", error.status)
    return HTMLResponse(html, headers={"Cache-Control": "no-store"})


def act(request: Request, services: Services, deed: Callable[[Identity], str], then: str) -> Response:
    """Do what a form asks for, and go to the page `then`, which shows the deed's sentence or its error."""
    identity = admin_of(request, services)
    if isinstance(identity, Response):
        return identity
    try:
        text, bad = deed(identity), False
    except ThumbloopError as error:
        text, bad = error.message, True
    response = RedirectResponse(then, status_code=303)
    if text:
        value = quote(json.dumps([text[:LONGEST_NOTICE], bad]))
        response.set_cookie(NOTICE, value, max_age=60, httponly=True, samesite="strict")
    return response


def write(request: Request, services: Services, deed: Callable[[Session, str], str], then: str) -> Response:
    """Like `act`, for what is one transaction of the database; `deed` gets its session and who acts."""

    def in_transaction(identity: Identity) -> str:
        with services.database.write() as session:
            return deed(session, identity.user_id)

    return act(request, services, in_transaction, then)


def _read_notice(cookie: str) -> tuple[str, bool] | None:
    try:
        text, bad = json.loads(unquote(cookie))
    except (ValueError, TypeError):
        return None
    return str(text), bad is True
