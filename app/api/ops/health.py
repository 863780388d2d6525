"""Health checks for monitoring: is the server alive, and can it answer?"""

import logging

from fastapi import APIRouter
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError

from app.web.auth import ServicesHere
from storage.errors import Busy, ThumbloopError
from storage.registry.model_versions import deployed_version

log = logging.getLogger(__name__)
router = APIRouter(tags=["health"])


class Alive(BaseModel):
    status: str = "alive"


class Ready(BaseModel):
    status: str = "ready"
    deployed: str


@router.get("/healthz")
def alive() -> Alive:
    """The process answers."""
    return Alive()


@router.get("/readyz")
def ready(services: ServicesHere) -> Ready:
    """The database answers and a model can reply; 503 with the reason otherwise."""
    try:
        with services.database.read() as session:
            deployed = deployed_version(session).name
    except (SQLAlchemyError, ThumbloopError) as error:
        log.warning("Not ready: %s", error)
        raise Busy("The database does not answer yet.", code="not_ready") from error
    trouble = services.deployments.trouble()
    if trouble is not None:
        raise Busy(trouble, code="not_ready")
    return Ready(deployed=deployed)
