"""The API's documentation at /docs: FastAPI's Swagger UI page, served without access to the internet.

Swagger UI's files are those of swagger-ui-dist 5.35.0, in `assets/`. The page's inline script runs by
its hash; otherwise the content policy of the API holds.
"""

from pathlib import Path

from fastapi import APIRouter
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.exceptions import HTTPException
from starlette.responses import FileResponse, Response

from app.web.middleware import POLICY
from app.web.page_guard import script_hashes

ASSETS = Path(__file__).parent / "assets"
FILES = ("swagger-ui-bundle.js", "swagger-ui.css")
PAGE = get_swagger_ui_html(
    openapi_url="openapi.json",
    title="Thumbloop API",
    swagger_js_url=f"docs/{FILES[0]}",
    swagger_css_url=f"docs/{FILES[1]}",
    swagger_favicon_url="data:,",
)
SCRIPTS = " ".join(script_hashes(bytes(PAGE.body).decode()))
PAGE.headers["Content-Security-Policy"] = POLICY.replace("script-src 'self'", f"script-src 'self' {SCRIPTS}")

router = APIRouter(include_in_schema=False)


@router.get("/docs")
def docs() -> Response:
    return PAGE


@router.get("/docs/{file}")
def asset(file: str) -> Response:
    if file not in FILES:
        raise HTTPException(404)
    return FileResponse(ASSETS / file)
