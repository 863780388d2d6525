"""What a browser asks for to install the chat page as an app: without its session, so open to all."""

from fastapi import APIRouter
from starlette.responses import FileResponse, Response

from app.pages.html import ASSETS

router = APIRouter(include_in_schema=False)


@router.get("/manifest.json")
def manifest() -> Response:
    return FileResponse(ASSETS / "manifest.json", media_type="application/manifest+json")


@router.get("/icon.svg")
def icon() -> Response:
    return FileResponse(ASSETS / "icon.svg")
