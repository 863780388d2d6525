"""Signing in and out: the form for accounts, and the one-time admin link. Plain HTML without scripts."""

from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from jinja2 import Environment, PackageLoader
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.web.auth import ServicesHere, clear_cookie, cookie_name, resolve, set_cookie, start_session
from storage.errors import NotAuthenticated
from storage.people import tokens, users

router = APIRouter(include_in_schema=False)

_templates = Environment(loader=PackageLoader("app.web"), autoescape=True)


def page(template: str, title: str, status: int = 200, **values: str) -> Response:
    html = _templates.get_template(template).render(title=title, **values)
    return HTMLResponse(html, status_code=status, headers={"Cache-Control": "no-store"})


def admin_only_page() -> Response:
    return page("admins_only.html", "Admins only", 403)


@router.get("/login")
def show_form(request: Request, services: ServicesHere, next: str = "/") -> Response:
    if resolve(services.database, request.headers, request.cookies, secure=_is_secure(request)):
        return RedirectResponse(_own_path(next), status_code=303)
    return _form(next)


@router.post("/login")
def sign_in(
    request: Request,
    services: ServicesHere,
    name: Annotated[str, Form()] = "",
    password: Annotated[str, Form()] = "",
    next: Annotated[str, Form()] = "/",
) -> Response:
    try:
        with services.database.read() as session:
            # No name contains a NUL, and PostgreSQL does not accept one in a query.
            user = users.check_password(session, name.replace("\x00", ""), password)
    except NotAuthenticated as error:
        return _form(next, name=name, alert=error.message, status=401)
    return _signed_in(request, services, user.id, _own_path(next))


@router.post("/logout")
def sign_out(request: Request, services: ServicesHere) -> Response:
    plain = request.cookies.get(cookie_name(_is_secure(request)))
    if plain:
        with services.database.write() as session:
            tokens.revoke_plain(session, plain)
    response = RedirectResponse("/login", status_code=303)
    clear_cookie(response, secure=_is_secure(request))
    return response


@router.get("/admin")
def redeem_admin_link(request: Request, services: ServicesHere, token: str = "") -> Response:
    """Turn the one-time link into a session and redirect, so that the URL loses its token."""
    if not token:
        return RedirectResponse("/admin/", status_code=303)
    try:
        with services.database.write() as session:
            user = tokens.redeem_login(session, token)
    except NotAuthenticated as error:
        return page("page.html", "This link does not work", 403, alert=error.message)
    return _signed_in(request, services, user.id, "/admin/")


def _signed_in(request: Request, services: ServicesHere, user_id: str, target: str) -> Response:
    plain = start_session(services.database, user_id, services.settings)
    response = RedirectResponse(target, status_code=303)
    response.headers["Cache-Control"] = "no-store"
    set_cookie(response, plain, services.settings, secure=_is_secure(request))
    return response


def _form(target: str, *, name: str = "", alert: str = "", status: int = 200) -> Response:
    return page("sign_in.html", "Sign in", status, next=_own_path(target), name=name, alert=alert)


def _own_path(target: str) -> str:
    """Where to go after signing in: always a path of this server."""
    own = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return quote(target, safe="/?=&-._~%") if own else "/"


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
