"""Settings: what each is, where its value comes from, and changes while the server runs. For admins."""

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Path
from pydantic import BaseModel, Field

from app.services import Services
from app.web.auth import Admin, ServicesHere
from app.web.openapi_names import Body
from storage.db.changed_settings import read_changes
from storage.settings import describe, known_setting, why_fixed
from storage.settings.shown import allowed, schemas, shown_value, source_of
from storage.settings.validators import variable

HERE = "changed here"

router = APIRouter(prefix="/settings", tags=["settings"])
Name = Annotated[str, Path(max_length=100, description="Such as THUMBLOOP_BETA, or beta.")]


class SettingOut(BaseModel):
    name: str = Field(description="The environment variable.")
    value: str = Field(description="As text; never a secret.")
    default: str
    source: str = Field(description="default, environment, thumbloop.toml, or changed here.")
    about: str
    takes: str
    fixed: str = Field(description="Why it cannot be changed here; empty for one that can.")
    changed_by: str | None = Field(description="The id of who changed it here.")
    changed_at: datetime | None


class SettingsOut(BaseModel):
    items: list[SettingOut]


class NewValue(Body, json_schema_extra={"examples": [{"value": "0.2"}]}):
    value: str = Field(max_length=10_000, description="As in an environment variable.")


@router.get("")
def list_settings(_: Admin, services: ServicesHere) -> SettingsOut:
    """Every setting, with its value on this server."""
    return SettingsOut(items=current(services))


@router.put("/{name}")
def change_setting(name: Name, body: NewValue, identity: Admin, services: ServicesHere) -> SettingsOut:
    """Change a setting on all servers and for the next training; returns it alone."""
    services.live_settings.change(name, body.value, by=identity.user_id)
    return _one(services, name)


@router.delete("/{name}")
def reset_setting(name: Name, identity: Admin, services: ServicesHere) -> SettingsOut:
    """Let the configured value apply again; returns it. Repeating it changes nothing."""
    services.live_settings.reset(name, by=identity.user_id)
    return _one(services, name)


def current(services: Services) -> list[SettingOut]:
    with services.database.read() as session:
        changes = read_changes(session)
    return [
        SettingOut(
            name=variable(name),
            value=shown_value(name, getattr(services.settings, name)),
            default=shown_value(name, schema["default"]),
            source=HERE if name in changes else source_of(name),
            about=describe(name),
            takes=allowed(schema).replace("`", ""),
            fixed=why_fixed(name),
            changed_by=changes[name].by if name in changes else None,
            changed_at=changes[name].at if name in changes else None,
        )
        for name, schema in schemas().items()
    ]


def _one(services: Services, name: str) -> SettingsOut:
    wanted = variable(known_setting(name))
    return SettingsOut(items=[one for one in current(services) if one.name == wanted])
