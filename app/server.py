"""`create_app(settings)`: assembles the routers, the pages and the start and stop of the services."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import gradio as gr
from anyio import to_thread
from fastapi import Depends, FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.types import Receive, Scope, Send

from app.api.openai import routes
from app.api.ops import audit, docs, monitoring
from app.api.ops import settings as setting_routes
from app.api.replies import reply_threads
from app.api.v1 import (
    accounts,
    chats,
    evaluations,
    feedback,
    guard,
    imports,
    model_versions,
    stats,
    sweeps,
    training_runs,
    users,
    voted_replies,
    votes,
    webhooks,
)
from app.pages import installing
from app.pages.admin import PAGES
from app.pages.admin.figures import remember_figures
from app.pages.chat.page import ChatPage
from app.pages.html import DEMONSTRATION
from app.pages.theme import mount_options
from app.services import Services, build_services
from app.telemetry.request_ids import RequestIds
from app.web import errors, password_links, sign_in, single_sign_on
from app.web.auth import check_safe
from app.web.middleware import (
    BodyLimit,
    HeadRequests,
    OriginGuard,
    ResponseCounts,
    SecurityHeaders,
    keep_secrets_out_of_logs,
)
from app.web.openapi_names import refuse_repeated, refuse_unstorable
from app.web.page_guard import PageGuard
from app.web.password_checks import PasswordChecks
from app.web.root_path import RootPath
from app.web.single_sign_on import SingleSignOn, session_middleware
from storage.settings import Settings

API = "/api/v1"
API_ROUTERS = (
    chats,
    votes,
    training_runs,
    model_versions,
    stats,
    sweeps,
    evaluations,
    feedback,
    imports,
    accounts,
    users,
    guard,
    voted_replies,
    webhooks,
    audit,
    setting_routes,
)
ROOT_ROUTERS = (routes, monitoring, docs, sign_in, password_links, single_sign_on, installing, *PAGES)
QUEUE_LOOK_SECONDS = 0.02  # how soon Gradio begins an event of a page
DESCRIPTION = """Every request needs an API token (`thumbloop token create NAME`) in the header
`Authorization: Bearer tl_…`; a browser that is signed in needs none. Errors are JSON:
`{"error": {"code", "message", "field"?}}`."""


def create_app(settings: Settings, services: Services | None = None) -> FastAPI:
    """The complete web application. Raises BadSetting if these settings are not safe to serve."""
    check_safe(settings)
    keep_secrets_out_of_logs()
    parts = services if services is not None else build_services(settings)
    options = mount_options() | {"root_path": settings.root_path or None}
    pages = mount_page(ChatPage(parts).blocks, options)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await to_thread.run_sync(parts.start)
        app.state.admin_figures.renew_soon()  # or the first reader would wait for seconds in a large store
        try:
            async with pages.router.lifespan_context(pages):
                yield
        finally:
            await to_thread.run_sync(parts.stop)
            app.state.password_checks.close()

    app = FastAPI(
        title="Thumbloop",
        summary="A chat app that learns from its thumbs.",
        description=f"{DEMONSTRATION}\n\n{DESCRIPTION}" if parts.demonstration else DESCRIPTION,
        version="1",
        servers=[{"url": settings.root_path}] if settings.root_path else None,
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses=errors.REFUSALS,
        lifespan=lifespan,
        dependencies=[Depends(refuse_unstorable)],
        middleware=[
            Middleware(RootPath, prefix=settings.root_path),
            Middleware(RequestIds),
            Middleware(ResponseCounts, metrics=parts.metrics),
            Middleware(SecurityHeaders),
            Middleware(HeadRequests),
            Middleware(OriginGuard, settings=settings),
            Middleware(BodyLimit, settings=settings, database=parts.database),
            *session_middleware(settings),
        ],
    )
    app.state.services = parts
    app.state.admin_figures = remember_figures(parts)
    app.state.single_sign_on = SingleSignOn(settings) if settings.oidc else None
    app.state.password_checks = PasswordChecks(parts.database, settings)
    app.state.reply_threads = reply_threads(settings)
    errors.install(app)
    for module in API_ROUTERS:
        app.include_router(module.router, prefix=API, dependencies=[Depends(refuse_repeated)])
    for module in ROOT_ROUTERS:
        app.include_router(module.router)
    # Not mounted: a mount at "/" would also catch paths that a router has under another method (405).
    guard = PageGuard(pages, parts.database, settings, head=[options.get("head", "")])

    async def page(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["path"].startswith(errors.PROGRAMS):
            raise HTTPException(404)
        await guard(scope, receive, send)

    app.router.default = page
    if parts.tracing is not None:
        parts.tracing.watch(app)
    return app


def mount_page(page: gr.Blocks, options: dict[str, Any]) -> FastAPI:
    """An app with Gradio's page mounted at /; serve it behind a PageGuard only."""
    # Gradio allows any origin with credentials unless the app around it has this middleware.
    pages = FastAPI(openapi_url=None, middleware=[Middleware(CORSMiddleware, allow_origins=[])])
    # Gradio polls for events a thousand times a second, and for progress a hundred times, which wastes
    # a fifteenth of a core. There is no setting for it.
    page._queue.sleep_when_free = page._queue.progress_update_sleep_when_free = QUEUE_LOOK_SECONDS
    gr.mount_gradio_app(pages, page, path="/", **options)
    return pages
