"""Model versions: list, deploy and roll back."""

from fastapi import APIRouter
from pydantic import ConfigDict
from sqlmodel import Session

from app.api.schemas import Cursor, Limit, Page, Text, VersionId, VersionOut, page_of, version_out
from app.web.auth import Admin, CurrentUser, ServicesHere
from app.web.openapi_names import Body
from storage.registry import canaries, model_versions

router = APIRouter(tags=["model versions"])


class Reason(Body):
    model_config = ConfigDict(json_schema_extra={"examples": [{"why": "People liked it better."}]})

    why: Text = ""


def reason_or(body: Reason | None, default: str) -> str:
    return (body.why if body is not None else "") or default


@router.get("/model-versions")
def list_versions(
    _: CurrentUser, services: ServicesHere, limit: Limit = 50, cursor: Cursor = None
) -> Page[VersionOut]:
    """The versions, newest first."""
    with services.database.read() as session:
        found = model_versions.list_versions(session, limit=limit + 1, before=cursor)
        answering = canaries.traffic(session)
    return page_of([version_out(version, answering) for version in found], limit)


@router.get("/model-versions/{version}")
def get_version(version: VersionId, _: CurrentUser, services: ServicesHere) -> VersionOut:
    """A version by id or name."""
    with services.database.read() as session:
        return version_out(model_versions.get_version(session, version), canaries.traffic(session))


@router.post("/model-versions/{version}/deploy")
def deploy(
    version: VersionId, identity: Admin, services: ServicesHere, body: Reason | None = None
) -> VersionOut:
    """Verify and deploy a version; replies in progress finish on the version they began with."""
    why = reason_or(body, "Deployed over the API.")
    deployed = services.deployments.deploy(version, by=identity.user_id, why=why)
    with services.database.read() as session:
        return version_out(deployed, canaries.traffic(session))


@router.post("/rollback")
def roll_back(identity: Admin, services: ServicesHere, body: Reason | None = None) -> VersionOut:
    """Deploy the previously deployed version; 409 if there is none."""
    why = reason_or(body, "Rolled back over the API.")
    deployed = services.deployments.roll_back(by=identity.user_id, why=why)
    with services.database.read() as session:
        return version_out(deployed, canaries.traffic(session))


def all_versions(session: Session) -> list[VersionOut]:
    answering = canaries.traffic(session)
    return [version_out(version, answering) for version in model_versions.list_versions(session)]
