"""The page /admin/settings: every setting, where its value comes from, what it does, and forms for some."""

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from app.api.ops.settings import HERE, current
from app.pages.admin.frame import act, show
from app.web.auth import Identity, ServicesHere

ADDRESS = "/admin/settings"

router = APIRouter(include_in_schema=False)


@router.get(ADDRESS)
def show_settings(request: Request, services: ServicesHere, search: str = "", which: str = "") -> Response:
    def values(_: Identity) -> dict[str, Any]:
        found = [
            one
            for one in current(services)
            if search.lower() in f"{one.name} {one.about}".lower()
            and (which != "changeable" or not one.fixed)
            and (which != "changed" or one.source == HERE)
        ]
        query = urlencode({"search": search, "which": which})
        return {"rows": found, "search": search, "which": which, "here": HERE, "query": query}

    return show(request, services, "settings.html", values)


@router.post(ADDRESS)
def change(
    request: Request,
    services: ServicesHere,
    name: Annotated[str, Form(max_length=100)],
    value: Annotated[str, Form(max_length=10_000)] = "",
    reset: Annotated[bool, Form()] = False,
) -> Response:
    def deed(identity: Identity) -> str:
        if reset:
            services.live_settings.reset(name, by=identity.user_id)
            return f"{name} is as configured again."
        services.live_settings.change(name, value, by=identity.user_id)
        return f"{name} is changed, on all servers and for the next training."

    return act(request, services, deed, f"{ADDRESS}?{request.query_params}")
