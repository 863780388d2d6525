"""/metrics for Prometheus: open to a scraper with its own token, and to admins."""

import hmac

from fastapi import APIRouter, Depends, Request
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.responses import Response

from app.web.auth import CurrentSecret, ServicesHere, admin_user, current_user

router = APIRouter(tags=["health"])


def may_scrape(request: Request, secret: CurrentSecret, services: ServicesHere) -> None:
    """Allow the scraper's own token, which opens nothing else. Raises NotAuthenticated, NotAllowed."""
    token = services.settings.metrics_token
    if token and secret.kind == "api" and hmac.compare_digest(secret.plain.encode(), token.encode()):
        return
    admin_user(current_user(request, secret, services))


@router.get(
    "/metrics",
    # Response, not PlainTextResponse: refusals are JSON here as elsewhere.
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
    dependencies=[Depends(may_scrape)],
)
def metrics(services: ServicesHere) -> Response:
    """Figures of this server as Prometheus reads them. For admins, and with THUMBLOOP_METRICS_TOKEN."""
    return Response(generate_latest(services.metrics.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)
