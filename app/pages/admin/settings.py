"""The page /admin/settings: every setting with its value, where that comes from, and what it does."""

from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from app.pages.admin.frame import show
from app.web.auth import Identity, ServicesHere
from storage.settings import describe
from storage.settings.shown import allowed, schemas, shown_value, source_of
from storage.settings.validators import variable

router = APIRouter(include_in_schema=False)


@router.get("/admin/settings")
def show_settings(request: Request, services: ServicesHere, search: str = "") -> Response:
    def values(_: Identity) -> dict[str, Any]:
        rows = [
            {
                "name": variable(name),
                "value": shown_value(name, getattr(services.settings, name)),
                "default": shown_value(name, schema["default"]),
                "source": source_of(name),
                "takes": allowed(schema).replace("`", ""),
                "about": describe(name),
            }
            for name, schema in schemas().items()
        ]
        found = [row for row in rows if search.lower() in f"{row['name']} {row['about']}".lower()]
        return {"rows": found, "search": search}

    return show(request, services, "settings.html", values)
