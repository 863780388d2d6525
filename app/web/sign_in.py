"""Signing in and out: the form for accounts, and the one-time admin link. Plain HTML without scripts."""

from html import escape
from typing import Annotated
from urllib.parse import quote

from fastapi import APIRouter, Form, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from app.web.auth import ServicesHere, clear_cookie, cookie_name, resolve, set_cookie, start_session
from storage.errors import NotAuthenticated
from storage.people import tokens, users

router = APIRouter(include_in_schema=False)

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} · Thumbloop</title>
<link rel="icon" href="data:,">
<style>
  :root {{ color-scheme: light dark; }}
  body {{ margin: 0; min-height: 100vh; display: grid; place-items: center; background: Canvas;
         color: CanvasText; font: 16px/1.5 system-ui, sans-serif; }}
  main {{ width: min(22rem, 100vw - 3rem); padding: 2rem 0; }}
  h1 {{ font-size: 1.4rem; margin: 0 0 1rem; }}
  label {{ display: block; margin: 1rem 0 .3rem; }}
  input {{ width: 100%; box-sizing: border-box; font: inherit; padding: .6rem .7rem;
          border: 1px solid GrayText; border-radius: .5rem; background: Field; color: FieldText; }}
  button {{ width: 100%; margin-top: 1.5rem; padding: .7rem; font: inherit; font-weight: 600;
           color: #fff; background: #0f766e; border: 0; border-radius: .5rem; cursor: pointer; }}
  :is(input, button, a):focus-visible {{ outline: 3px solid #14b8a6; outline-offset: 2px; }}
  code {{ font: .9em ui-monospace, monospace; padding: .1rem .3rem; border: 1px solid GrayText;
         border-radius: .3rem; white-space: nowrap; }}
  [role=alert] {{ border-left: 4px solid #b91c1c; padding: .3rem .8rem; }}
</style>
</head>
<body><main><h1>{title}</h1>{body}</main></body>
</html>
"""

FORM = """{alert}<form method="post" action="login">
<input type="hidden" name="next" value="{next}">
<label for="name">Name</label>
<input id="name" name="name" autocomplete="username" required autofocus value="{name}">
<label for="password">Password</label>
<input id="password" name="password" type="password" autocomplete="current-password" required>
<button>Sign in</button>
</form>"""

ADMIN_ONLY = """<p>Only an admin can open this page. On the machine that runs Thumbloop,</p>
<p><code>thumbloop admin-link</code></p>
<p>prints a link that signs you in. <a href="/">Back to the chat</a></p>"""


def page(title: str, body: str, status: int = 200) -> Response:
    return HTMLResponse(
        PAGE.format(title=escape(title), body=body), status_code=status, headers={"Cache-Control": "no-store"}
    )


def admin_only_page() -> Response:
    return page("Admins only", ADMIN_ONLY, status=403)


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
        return page("This link does not work", f"<p role=alert>{escape(error.message)}</p>", status=403)
    return _signed_in(request, services, user.id, "/admin/")


def _signed_in(request: Request, services: ServicesHere, user_id: str, target: str) -> Response:
    plain = start_session(services.database, user_id, services.settings)
    response = RedirectResponse(target, status_code=303)
    response.headers["Cache-Control"] = "no-store"
    set_cookie(response, plain, services.settings, secure=_is_secure(request))
    return response


def _form(target: str, *, name: str = "", alert: str = "", status: int = 200) -> Response:
    shown = f"<p role=alert>{escape(alert)}</p>" if alert else ""
    return page(
        "Sign in", FORM.format(alert=shown, next=escape(_own_path(target)), name=escape(name)), status
    )


def _own_path(target: str) -> str:
    """Where to go after signing in: always a path of this server."""
    own = target.startswith("/") and not target.startswith(("//", "/\\")) and target.isprintable()
    return quote(target, safe="/?=&-._~%") if own else "/"


def _is_secure(request: Request) -> bool:
    return request.url.scheme == "https"
