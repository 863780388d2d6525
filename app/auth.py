"""Who is asking: bearer tokens and browser sessions into an Identity.

Knows headers, cookies and roles. What a person may see of a chat is decided in storage.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from starlette.responses import Response

from storage import tokens
from storage.database import Database
from storage.errors import BadSetting, NotAllowed, NotAuthenticated
from storage.settings import Settings
from storage.tables import User

if TYPE_CHECKING:
    from app.services import Services

COOKIE = "thumbloop_session"


@dataclass(frozen=True)
class Identity:
    """One person, as their token or session says."""

    user_id: str
    name: str
    role: str

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


def identity_from(user: User) -> Identity:
    return Identity(user_id=user.id, name=user.name or "anonymous", role=user.role)


def resolve(
    database: Database, headers: Mapping[str, str], cookies: Mapping[str, str], *, secure: bool
) -> Identity | None:
    """The person behind a request. A bearer token that is not valid is not made up for by a cookie."""
    bearer = bearer_token(headers)
    if bearer is not None:
        plain, kind = bearer, "api"
    else:
        plain, kind = cookies.get(cookie_name(secure), ""), "session"
    if not plain:
        return None
    with database.read() as session:
        user = tokens.authenticate(session, plain, kinds=(kind,))
    return identity_from(user) if user is not None else None


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """What stands after `Bearer`; None for other schemes, which a proxy in front may use for itself."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def cookie_name(secure: bool) -> str:
    # The browser itself refuses a __Host- cookie that another host or an http page tries to set.
    return f"__Host-{COOKIE}" if secure else COOKIE


def start_session(database: Database, user_id: str, settings: Settings) -> str:
    """A new session; the text that is returned is the cookie's value."""
    with database.write() as session:
        _, plain = tokens.create_token(
            session, user_id, name="browser", kind="session", ttl=timedelta(days=settings.session_days)
        )
    return plain


def set_cookie(response: Response, plain: str, settings: Settings, *, secure: bool) -> None:
    response.set_cookie(
        cookie_name(secure),
        plain,
        max_age=settings.session_days * 86_400,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def clear_cookie(response: Response, *, secure: bool) -> None:
    response.delete_cookie(cookie_name(secure), path="/", secure=secure, httponly=True, samesite="lax")


def identity_of(request: Any, services: "Services") -> Identity:
    """The person behind a `gr.Request`, in any event handler; raises NotAuthenticated.

    The page guard has put the identity there before Gradio saw the request. A request that Gradio
    rebuilt without its scope still has headers and cookies, which are resolved again.
    """
    known = getattr(getattr(request.request, "state", None), "identity", None)
    if isinstance(known, Identity):
        return known
    identity = resolve(
        services.database,
        dict(request.headers),
        dict(request.cookies),
        secure=str(request.url).startswith("https:"),
    )
    if identity is None:
        raise NotAuthenticated("Your session has ended; reload the page.")
    return identity


def services_of(request: Request) -> "Services":
    services: Services = request.app.state.services
    return services


ServicesHere = Annotated["Services", Depends(services_of)]
# Only for the API docs: the header itself is read in resolve().
_bearer = HTTPBearer(auto_error=False, description="An API token; `thumbloop token create NAME` makes one.")


def current_user(request: Request, _: Annotated[Any, Security(_bearer)]) -> Identity:
    identity = resolve(
        services_of(request).database,
        request.headers,
        request.cookies,
        secure=request.url.scheme == "https",
    )
    if identity is None:
        raise NotAuthenticated(
            "Send a valid API token as the header `Authorization: Bearer tl_…`; "
            "`thumbloop token create NAME` makes one."
        )
    request.state.identity = identity
    return identity


def admin_user(identity: Annotated[Identity, Depends(current_user)]) -> Identity:
    if not identity.is_admin:
        raise NotAllowed(
            f"Only an admin may do this, and {identity.name} is not one; "
            f"`thumbloop token create NAME --role admin` makes a token that may.",
            code="admin_only",
        )
    return identity


CurrentUser = Annotated[Identity, Depends(current_user)]
Admin = Annotated[Identity, Depends(admin_user)]


def check_safe(settings: Settings) -> None:
    """Refuse to serve anonymous people on an address that others can reach; raises BadSetting."""
    if settings.auth == "anonymous" and not is_loopback(settings.host):
        raise BadSetting(
            f"THUMBLOOP_HOST={settings.host} can be reached by others, and THUMBLOOP_AUTH=anonymous lets "
            f"everyone in: set THUMBLOOP_AUTH=accounts (`thumbloop user create NAME` makes accounts), "
            f"or listen on 127.0.0.1.",
            field="auth",
        )


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
