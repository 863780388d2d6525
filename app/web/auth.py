"""Authentication: turns bearer tokens and browser sessions into an Identity.

Also checks roles. Which chats a person may see is decided in storage.
"""

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import Depends, Request, Security
from fastapi.security import HTTPBearer
from sqlmodel import Session
from starlette.requests import HTTPConnection
from starlette.responses import Response

from app.web.scopes import is_open
from storage.db.database import Database
from storage.db.tables import User
from storage.errors import BadSetting, NotAllowed, NotAuthenticated
from storage.people import tokens
from storage.settings import Settings

if TYPE_CHECKING:
    from app.services import Services

COOKIE = "thumbloop_session"
# The session of the admin link with THUMBLOOP_AUTH=anonymous: beside the visitor's own, who keeps the chats.
ADMIN_COOKIE = "thumbloop_admin"
NO_TOKEN = (
    "Send a valid API token as the header `Authorization: Bearer tl_…`; "
    "`thumbloop token create NAME` makes one."
)


@dataclass(frozen=True)
class Identity:
    """The person that a token or session belongs to."""

    user_id: str
    name: str
    role: str

    @property
    def is_admin(self) -> bool:
        return self.role == "admin"


@dataclass(frozen=True)
class Secret:
    """The secret that a request presents, and the kind of token it must be."""

    plain: str
    kind: str
    method: str = ""  # of the request
    path: str = ""


def identity_from(person: User | tokens.Person) -> Identity:
    return Identity(user_id=person.id, name=person.name or "anonymous", role=person.role)


def secret_of(
    headers: Mapping[str, str], cookies: Mapping[str, str], *, secure: bool, admin: bool = False
) -> Secret | None:
    """The bearer token, or else the session; for what an `admin` does, that of an admin link if there is one.

    If a bearer token is given, even an invalid one, the cookies are ignored.
    """
    bearer = bearer_token(headers)
    if bearer is not None:
        secret = Secret(bearer, "api")
    else:
        own = cookies.get(cookie_name(secure), "")
        secret = Secret(cookies.get(cookie_name(secure, admin=True), own) if admin else own, "session")
    return secret if secret.plain else None


def identify(session: Session, secret: Secret) -> Identity:
    """The person behind a secret; raises NotAuthenticated, and NotAllowed beyond the scopes of a token."""
    person = tokens.authenticate(session, secret.plain, kinds=(secret.kind,))
    if person is None:
        raise NotAuthenticated(NO_TOKEN)
    if not is_open(person.scopes, secret.method, secret.path):
        raise NotAllowed(
            f"The scopes of this token ({', '.join(person.scopes)}) do not allow {secret.method} "
            f"{secret.path}; `thumbloop token create NAME --scope …` makes another.",
            code="scope",
        )
    return identity_from(person)


def resolve(
    database: Database,
    headers: Mapping[str, str],
    cookies: Mapping[str, str],
    *,
    secure: bool,
    admin: bool = False,
) -> Identity | None:
    """The person behind a request; None without a valid secret."""
    secret = secret_of(headers, cookies, secure=secure, admin=admin)
    if secret is None:
        return None
    with database.read() as session:
        person = tokens.authenticate(session, secret.plain, kinds=(secret.kind,))
    return identity_from(person) if person is not None else None


def site_address(request: HTTPConnection, settings: Settings) -> str:
    """The address of this site as the browser knows it, without a slash at its end."""
    return f"{request.url.scheme}://{request.headers.get('host', '')}{settings.root_path}"


def bearer_token(headers: Mapping[str, str]) -> str | None:
    """The token after `Bearer`; None for other schemes, which a proxy in front may use for itself."""
    scheme, _, value = headers.get("authorization", "").partition(" ")
    return value.strip() if scheme.lower() == "bearer" else None


def cookie_name(secure: bool, *, admin: bool = False) -> str:
    name = ADMIN_COOKIE if admin else COOKIE
    # Browsers refuse a __Host- cookie that another host or an http page tries to set.
    return f"__Host-{name}" if secure else name


def start_session(session: Session, user_id: str, settings: Settings, *, provider: str = "") -> str:
    """Start a browser session, by an identity provider if one is named; returns the cookie's value."""
    ttl = timedelta(days=settings.session_days)
    return tokens.create_token(session, user_id, name=provider or "browser", kind="session", ttl=ttl)[1]


def set_cookie(
    response: Response, plain: str, settings: Settings, *, secure: bool, admin: bool = False
) -> None:
    response.set_cookie(
        cookie_name(secure, admin=admin),
        plain,
        max_age=settings.session_days * 86_400,
        path="/",
        secure=secure,
        httponly=True,
        samesite="lax",
    )


def clear_cookie(response: Response, *, secure: bool, admin: bool = False) -> None:
    name = cookie_name(secure, admin=admin)
    response.delete_cookie(name, path="/", secure=secure, httponly=True, samesite="lax")


def identity_of(request: Any, services: "Services") -> Identity:
    """The person behind a `gr.Request` in an event handler; raises NotAuthenticated.

    The page guard put the identity there before Gradio got the request. A request that Gradio rebuilt
    without its scope still has headers and cookies, which are resolved again.
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


async def services_of(request: Request) -> "Services":
    services: Services = request.app.state.services
    return services


ServicesHere = Annotated["Services", Depends(services_of)]
# Only for the API docs: the header is read in secret_of().
_bearer = HTTPBearer(auto_error=False, description="An API token; `thumbloop token create NAME` makes one.")


async def current_secret(request: Request, _: Annotated[Any, Security(_bearer)]) -> Secret:
    return _secret_in(request)


async def admin_secret(request: Request, _: Annotated[Any, Security(_bearer)]) -> Secret:
    return _secret_in(request, admin=True)


def _secret_in(request: Request, *, admin: bool = False) -> Secret:
    secure = request.url.scheme == "https"
    secret = secret_of(request.headers, request.cookies, secure=secure, admin=admin)
    if secret is None:
        raise NotAuthenticated(NO_TOKEN)
    return replace(secret, method=request.method, path=request.scope["path"])


# For a route that identifies its caller in the transaction of its work.
CurrentSecret = Annotated[Secret, Depends(current_secret)]
AdminSecret = Annotated[Secret, Depends(admin_secret)]


def current_user(secret: CurrentSecret, services: ServicesHere) -> Identity:
    with services.database.read() as session:
        return identify(session, secret)


def admin_user(secret: AdminSecret, services: ServicesHere) -> Identity:
    identity = current_user(secret, services)
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
    """Refuse anonymous access on an address that others can reach; raises BadSetting."""
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
