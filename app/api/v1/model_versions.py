"""Model versions: list, deploy, roll back, and try one as a canary. Deploying a canary promotes it."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field
from sqlmodel import Session

from app.api.schemas import (
    ApprovalOut,
    Cursor,
    Limit,
    Page,
    VersionId,
    VersionOut,
    page_of,
    version_out,
)
from app.services import Services
from app.web.auth import Admin, CurrentUser, ServicesHere
from app.web.openapi_names import Body
from storage.chats import stats
from storage.registry import canaries, model_versions

router = APIRouter(tags=["model versions"])


class Reason(Body, json_schema_extra={"examples": [{"why": "People liked it better."}]}):
    why: str = ""


def reason_or(body: Reason | None, default: str) -> str:
    return (body.why if body is not None else "") or default


class DeploymentOut(BaseModel):
    id: str
    version: str
    started_at: datetime
    ended_at: datetime | None = Field(description="null: it is deployed now.")
    by: str = Field(description="The id of a person, or a part of the program such as gate.")
    why: str
    rolled_back: bool = Field(description="Whether it was rolled back to.")


@router.get("/model-versions")
def list_versions(
    _: CurrentUser, services: ServicesHere, limit: Limit = 50, cursor: Cursor = None
) -> Page[VersionOut]:
    """The versions, newest first."""
    with services.database.read() as session:
        found = model_versions.list_versions(session, limit=limit + 1, before=cursor)
        answering = canaries.traffic(session)
    return page_of([version_out(version, answering) for version in found], limit)


@router.get("/deployments")
def list_deployments(
    _: Admin, services: ServicesHere, limit: Limit = 50, cursor: Cursor = None
) -> Page[DeploymentOut]:
    """Which version replied when, newest first."""
    with services.database.read() as session:
        found = model_versions.deployments(session, limit=limit + 1, before=cursor)
        names = {one.id: one.name for one in model_versions.list_versions(session)}
    return page_of([DeploymentOut(**row.model_dump(), version=names[row.version_id]) for row in found], limit)


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


@router.post("/model-versions/{version}/reject")
def reject(
    version: VersionId, identity: Admin, services: ServicesHere, body: Reason | None = None
) -> VersionOut:
    """Decide against a candidate, which the gate left to an admin: it is never served."""
    why = reason_or(body, "Rejected over the API.")
    with services.database.write() as session:
        rejected = model_versions.reject_version(session, version, by=identity.user_id, why=why)
        return version_out(rejected, canaries.traffic(session))


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


class NewCanary(Body, json_schema_extra={"examples": [{"share": 0.1, "why": "It passed its gate."}]}):
    share: float = Field(description="Share of the new chats; above 0 and below 1.")
    why: str = ""


class DifferenceOut(BaseModel):
    value: float = Field(description="The canary's approval minus that of the deployed version.")
    low: float = Field(description="Its 95 % interval (Newcombe's), from here")
    high: float = Field(description="to here.")


class CanaryOut(BaseModel):
    """Approval counts the chats that began since the canary started, each on its assigned side."""

    version: str
    compared_with: str = Field(description="The deployed version.")
    share: float
    chats: int = Field(description="Chats assigned to it.")
    served: bool = Field(description="false: this server could not load it; the deployed version answers.")
    by: str
    why: str
    started_at: datetime
    approval: ApprovalOut
    approval_deployed: ApprovalOut
    difference: DifferenceOut | None = Field(description="null until there are votes on both.")


class CanaryEnded(BaseModel):
    version: str = Field(description="The version that was the canary.")
    chats: int = Field(description="Chats that were assigned to it; the deployed version answers them now.")
    deployed: str


@router.post("/model-versions/{version}/canary")
def start_canary(version: VersionId, body: NewCanary, identity: Admin, services: ServicesHere) -> CanaryOut:
    """Start a canary, or change its share. Chats stay on their assigned side."""
    why = body.why or "Started over the API."
    services.deployments.canary.start(version, share=body.share, by=identity.user_id, why=why)
    found = current_canary(services)
    assert found is not None
    return found


@router.post("/canary/end")
def end_canary(identity: Admin, services: ServicesHere, body: Reason | None = None) -> CanaryEnded:
    """End the active canary: the deployed version answers its chats from now on."""
    why = reason_or(body, "Ended over the API.")
    version, chats = services.deployments.canary.end(by=identity.user_id, why=why)
    with services.database.read() as session:
        deployed = model_versions.deployed_version(session).name
    return CanaryEnded(version=version.name, chats=chats, deployed=deployed)


def current_canary(services: Services) -> CanaryOut | None:
    """The active canary, compared with the deployed version; None without one."""
    with services.database.read() as session:
        canary = model_versions.open_canary(session)
        if canary is None:
            return None
        tried, deployed = stats.canary_stats(session, canary)
        chats = canaries.count_chats(session, canary)
    difference = None
    interval = stats.difference_interval(tried, deployed)
    if interval is not None and tried.approval is not None and deployed.approval is not None:
        value = tried.approval - deployed.approval
        difference = DifferenceOut(value=value, low=interval.low, high=interval.high)
    return CanaryOut(
        **canary.model_dump(include={"share", "by", "why", "started_at"}),
        version=tried.version,
        compared_with=deployed.version,
        chats=chats,
        served=services.deployments.canary.serves(canary.id),
        approval=ApprovalOut.model_validate(tried),
        approval_deployed=ApprovalOut.model_validate(deployed),
        difference=difference,
    )
