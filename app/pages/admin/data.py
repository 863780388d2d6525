"""The page /admin/data: export and import. Its forms are made from the models that the API validates with."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.responses import Response

from app.api.v1.feedback import ExportQuery
from app.api.v1.imports import ImportQuery
from app.pages.admin.frame import show
from app.web.auth import Identity, ServicesHere
from storage.examples.filters import ExampleFilter
from storage.imports.column_maps import list_column_maps
from storage.imports.formats.table import FORMATS

router = APIRouter(include_in_schema=False)


@router.get("/admin/data")
def show_data(request: Request, services: ServicesHere) -> Response:
    def values(_: Identity) -> dict[str, Any]:
        export, imports = _fields(ExportQuery), _fields(ImportQuery)
        imports["format"] |= {"enum": [*FORMATS], "optional": True}
        filters = {name: export.pop(name) for name in ExampleFilter.model_fields}
        always = {name: imports.pop(name) for name in ("format", "columns", "skip_bad")}
        with services.database.read() as session:
            saved = list_column_maps(session)
        return {"export": export, "filters": filters, "always": always, "options": imports, "saved": saved}

    return show(request, services, "data.html", values)


def _fields(model: type[BaseModel]) -> dict[str, dict[str, Any]]:
    """The JSON schema of each field, by name."""
    return {
        name: schema | {"optional": "anyOf" in schema} | (schema["anyOf"][0] if "anyOf" in schema else {})
        for name, schema in model.model_json_schema()["properties"].items()
    }
