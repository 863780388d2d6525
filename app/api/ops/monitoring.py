"""Monitoring: is the server alive, can it reply, and its metrics for Prometheus."""

import hmac
import logging

from fastapi import APIRouter, Depends
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import BaseModel
from sqlalchemy.exc import SQLAlchemyError
from starlette.responses import Response

from app.web.auth import AdminSecret, ServicesHere, admin_user
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
    """The process is alive."""
    return Alive()


@router.get("/readyz")
def ready(services: ServicesHere) -> Ready:
    """The database responds and a model can reply, for more than a moment; otherwise 503 with the reason."""
    if services.chat_service.draining:
        raise Busy("This server is stopping.", code="not_ready")
    try:
        with services.database.read() as session:
            deployed = deployed_version(session).name
    except (SQLAlchemyError, ThumbloopError) as error:
        log.warning("Not ready: %s", error)
        raise Busy("The database does not respond yet.", code="not_ready") from error
    trouble = services.deployments.trouble()
    if trouble is not None:
        raise Busy(trouble, code="not_ready")
    return Ready(deployed=deployed)


def may_scrape(secret: AdminSecret, services: ServicesHere) -> None:
    """Allow the scraper's own token, which opens nothing else. Raises NotAuthenticated, NotAllowed."""
    token = services.settings.metrics_token
    if token and secret.kind == "api" and hmac.compare_digest(secret.plain.encode(), token.encode()):
        return
    admin_user(secret, services)


@router.get(
    "/metrics",
    # Response, not PlainTextResponse: refusals are JSON here as elsewhere.
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[Depends(may_scrape)],
)
def metrics(services: ServicesHere) -> Response:
    """Metrics of this server in Prometheus' format. For admins, or with THUMBLOOP_METRICS_TOKEN."""
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
