"""Signing in and out: the form for accounts, the one-time admin link, and a person's sessions.

Plain HTML without scripts.
"""

import contextlib
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote

from anyio import to_thread
from fastapi import APIRouter, Form, Request
from jinja2 import Environment, PackageLoader
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.web.auth import (
    Identity,
    ServicesHere,
    clear_cookie,
    cookie_name,
    resolve,
    set_cookie,
    start_session,
)
from app.web.languages import LANGUAGES, Language, language_in, remember
from app.web.password_checks import PasswordChecks
from storage.db import audit
from storage.errors import InvalidInput, NotAuthenticated, NotFound, TooOften
from storage.people import tokens, users

router = APIRouter(include_in_schema=False)

# Why a sign-in at an identity provider did not work, and the words that say so.
TROUBLES = {"unreachable": "provider_silent", "failed": "provider_failed", "refused": "provider_refused"}
_templates = Environment(loader=PackageLoader("app.web"), autoescape=True)
_templates.globals["languages"] = LANGUAGES.values()


def page(language: Language, template: str, title: str, status: int = 200, **values: Any) -> Response:
    """`title` is a key of the language's words; with `here`, a path, the page offers the other languages."""
    html = _templates.get_template(template).render(say=language, title=title, **values)
    return HTMLResponse(html, status_code=status, headers={"Cache-Control": "no-store"})


def page_refusal(
    identity: Identity | None, target: str, language: Language, *, auth: str, admin: bool
) -> Response | None:
    """What a browser gets instead of the page `target` if it may not see it."""
    if identity is None and auth == "accounts":
        return RedirectResponse(f"/login?next={quote(target, safe='/')}", status_code=303)
    if admin and (identity is None or not identity.is_admin):
        return page(language, "admins_only.html", "admins_only", 403)
    return None


@router.get("/login")
def show_form(
    request: Request, services: ServicesHere, next: str = "/", provider: str = "", trouble: str = ""
) -> Response:
    if resolve(services.database, request.headers, request.cookies, secure=_is_secure(request)):
        return RedirectResponse(own_path(next), status_code=303)
    known = services.settings.oidc.get(provider)
    if known is not None and trouble in TROUBLES:
        alert = language_in(request)(TROUBLES[trouble], name=known.label or provider)
        return _form(request, next, alert=alert, status=403)
    return _form(request, next, left=provider if known is not None else "")


@router.post("/login")
async def sign_in(
    request: Request,
    services: ServicesHere,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    try:
        plain = await _checked(request, name, password)
    except (NotAuthenticated, TooOften) as error:
        refused = _form(
            request, next, name=name, alert=language_in(request).error(error), status=error.status
        )
        if error.retry_after is not None:
            refused.headers["Retry-After"] = str(error.retry_after)
        return refused
    return signed_in(request, services, plain, own_path(next))


@router.post("/logout")
def sign_out(request: Request, services: ServicesHere) -> Response:
    """End the session, or first the one of an admin link, where a visitor has one of each."""
    secure = _is_secure(request)
    admin = cookie_name(secure, admin=True) in request.cookies
    # Strangers do not get to hold the write lock.
    target = "/" if admin else "/login"
    if resolve(services.database, {}, request.cookies, secure=secure, admin=admin):
        with services.database.write() as session:
            name = tokens.revoke_plain(session, request.cookies[cookie_name(secure, admin=admin)])
        if name in services.settings.oidc:
            target = f"/login?provider={name}"
    response = RedirectResponse(target, status_code=303)
    clear_cookie(response, secure=secure, admin=admin)
    return response


@router.post("/language")
def choose_language(
    request: Request, language: Annotated[str, Form()] = "", next: Annotated[str, Form()] = "/"
) -> Response:
    """Remember the language that a person chose."""
    response = RedirectResponse(own_path(next), status_code=303)
    remember(response, language, secure=_is_secure(request))
    return response


@router.get("/admin")
def redeem_admin_link(request: Request, services: ServicesHere, token: str = "") -> Response:
    """Turn the one-time link into a session and redirect, so that the URL loses its token."""
    if not token:
        return RedirectResponse("/admin/", status_code=303)
    try:
        with services.database.read() as session:
            tokens.check_login(session, token)  # before the write lock, which strangers do not get to hold
        with services.database.write() as session:
            user = tokens.redeem_login(session, token)
            plain = start_session(session, user.id, services.settings)
    except NotAuthenticated as error:
        language = language_in(request)
        return page(language, "page.html", "link_does_not_work", 403, alert=language.error(error))
    return signed_in(request, services, plain, "/admin/", beside=services.settings.auth == "anonymous")


@router.get("/sessions")
def show_sessions(request: Request, services: ServicesHere) -> Response:
    identity = resolve(services.database, {}, request.cookies, secure=_is_secure(request))
    if identity is None:
        return RedirectResponse("/login?next=/sessions", status_code=303)
    return _sessions(request, services, identity)


@router.post("/password")
async def change_password(
    request: Request,
    services: ServicesHere,
    current: Annotated[str, Form()] = "",
    new: Annotated[str, Form()] = "",
) -> Response:
    """Let a person change their own password, which ends all else that is signed in as them."""
    secure = _is_secure(request)

    def change(identity: Identity) -> str:
        with services.database.write() as session:
            users.set_password(session, identity.user_id, new)
            audit.record(session, identity.user_id, "set password", identity.user_id)
            return start_session(session, identity.user_id, services.settings)

    identity = await to_thread.run_sync(
        lambda: resolve(services.database, {}, request.cookies, secure=secure)
    )
    if identity is None:
        return RedirectResponse("/login?next=/sessions", status_code=303)
    try:
        await _checked(request, identity.name, current)
        return signed_in(request, services, await to_thread.run_sync(change, identity), "/sessions")
    except (NotAuthenticated, TooOften, InvalidInput) as error:
        shown = partial(
            _sessions,
            request,
            services,
            identity,
            alert=language_in(request).error(error),
            status=error.status,
        )
        return await to_thread.run_sync(shown)


@router.post("/sessions")
def end_sessions(
    request: Request, services: ServicesHere, session_id: Annotated[str, Form()] = ""
) -> Response:
    """End one session of this person, or all of them and their sign-in links."""
    identity = resolve(services.database, {}, request.cookies, secure=_is_secure(request))
    if identity is not None:
        with services.database.write() as session, contextlib.suppress(NotFound):
            session_id = session_id.replace("\x00", "")
            tokens.sign_out(session, identity.user_id, session_id, by=identity.user_id)
    return RedirectResponse("/sessions", status_code=303)


async def _checked(request: Request, name: str, password: str) -> str:
    """A new session of the person with this password; raises NotAuthenticated and TooOften."""
    checks: PasswordChecks = request.app.state.password_checks
    address = request.client.host if request.client is not None else ""
    # No name contains a NUL, and PostgreSQL does not accept one in a query.
    return await checks.sign_in(name.replace("\x00", ""), password, address)


def _sessions(
    request: Request, services: ServicesHere, identity: Identity, *, alert: str = "", status: int = 200
) -> Response:
    plain = request.cookies[cookie_name(_is_secure(request))]
    with services.database.read() as session:
        current = tokens.session_id_of(session, plain)
        found = [
            {"id": one.id, "began": f"{one.created_at:%Y-%m-%d %H:%M} UTC", "current": one.id == current}
            for one in tokens.list_sessions(session, identity.user_id)
        ]
    known = {"name": identity.name, "sessions": found, "here": "/sessions"}
    return page(language_in(request), "sessions.html", "sessions", status, **known, alert=alert)


def signed_in(
    request: Request, services: ServicesHere, plain: str, target: str, *, beside: bool = False
) -> Response:
    """Begin a session in place of the browser's, or an admin's `beside` a visitor's."""
    response = RedirectResponse(target, status_code=303)
    response.headers["Cache-Control"] = "no-store"
    secure = _is_secure(request)
    set_cookie(response, plain, services.settings, secure=secure, admin=beside)
    if not beside:
        clear_cookie(response, secure=secure, admin=True)
    return response


def _form(
    request: Request, target: str, *, name: str = "", alert: str = "", left: str = "", status: int = 200
) -> Response:
    """`left` is the provider at which the person who has just signed out may still be signed in."""
    target = own_path(target)
    oidc = request.app.state.services.settings.oidc
    providers = {key: one.label or key for key, one in oidc.items()}
    values = {"next": target, "name": name, "alert": alert, "providers": providers, "left": left}
    values["here"] = f"/login?next={quote(target, safe='/')}"
    return page(language_in(request), "sign_in.html", "sign_in", status, **values)


def own_path(target: str) -> str:
    """Where to go after signing in: always a path of this server."""
    own = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return quote(target, safe="/?=&-._~%") if own else "/"


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
