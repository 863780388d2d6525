"""What the admin's plain HTML pages share: who may open them, and their files."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, HTMLResponse, Response

from app.pages.html import ASSETS, render
from app.services import Services
from app.web.auth import Identity, resolve
from app.web.sign_in import page_refusal

FILES = ("plain.css", "plain.js")

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
    refusal = page_refusal(identity, target, auth=services.settings.auth, admin=True)
    if refusal is None:
        assert identity is not None
        return identity
    return refusal


def plain_page(template: str, status: int = 200, **values: Any) -> Response:
    html = render(f"admin/{template}", **values)
    return HTMLResponse(html, status, headers={"Cache-Control": "no-store"})
