"""Signing in at an identity provider (OpenID Connect): the redirect to it, and the return with a session.

Authlib speaks the protocol: state, nonce, PKCE, and the ID token's signature, issuer, audience and expiry.
A signed cookie keeps its state meanwhile, so any server can finish what another began.
"""

import hmac
import logging
from typing import Any, Literal
from urllib.parse import quote, urlencode

import httpx2
from anyio import to_thread
from fastapi import APIRouter, Request
from sqlalchemy.exc import IntegrityError
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import RedirectResponse, Response

from app.web.auth import ServicesHere, site_address, start_session
from app.web.sign_in import own_path, signed_in
from storage.errors import BadSetting
from storage.files.installation_key import load_secret
from storage.people.identities import Claims, account_of
from storage.settings import Settings
from storage.settings.oidc import OidcProvider

log = logging.getLogger("thumbloop.sign_in")
router = APIRouter(include_in_schema=False)

Trouble = Literal["unreachable", "failed", "refused"]
SECONDS_AWAY = 600  # at the provider
CLOCK_SKEW_SECONDS = 60
PUBLIC_KEY_ALGORITHMS = ("RS", "PS", "ES", "Ed")  # not `none`, nor HS, whose key is the client's secret


class SingleSignOn:
    """The providers of the settings; raises BadSetting if Authlib is not installed."""

    def __init__(self, settings: Settings) -> None:
        try:
            from authlib.integrations.starlette_client import OAuth, OAuthError
            from joserfc.errors import JoseError
        except ImportError as error:
            raise BadSetting(
                "THUMBLOOP_OIDC needs Authlib: pip install 'thumbloop[oidc]'", field="oidc"
            ) from error
        # RuntimeError: the metadata lacks an endpoint. ValueError: an answer is not JSON, or contradicts
        # another. KeyError: a part of an answer is missing.
        self.refusals = (OAuthError, JoseError, RuntimeError, ValueError, KeyError)
        self._providers = settings.oidc
        self._clients = OAuth()
        for name, provider in settings.oidc.items():
            self._clients.register(
                name,
                client_id=provider.client_id,
                client_secret=provider.client_secret or None,
                server_metadata_url=f"{provider.issuer.rstrip('/')}/.well-known/openid-configuration",
                client_kwargs={"scope": provider.scope, "code_challenge_method": "S256", "timeout": 10},
            )

    def provider(self, name: str) -> OidcProvider:
        """Raises HTTPException (404) for a name that is not in the settings."""
        if name not in self._providers:
            raise HTTPException(404)
        return self._providers[name]

    async def client(self, name: str) -> Any:
        """Authlib's client, once the provider has described itself; raises httpx2.HTTPError, ValueError."""
        client, issuer = self._clients.create_client(name), self.provider(name).issuer
        described = await client.load_server_metadata()
        if str(described.get("issuer")).rstrip("/") != issuer.rstrip("/"):
            raise ValueError(f"it calls itself {described.get('issuer')!r}, not {issuer!r}")
        algorithms = described.get("id_token_signing_alg_values_supported") or ["RS256"]
        safe = [each for each in algorithms if str(each).startswith(PUBLIC_KEY_ALGORITHMS)]
        described["id_token_signing_alg_values_supported"] = safe
        return client


def session_middleware(settings: Settings) -> list[Middleware]:
    """Keeps Authlib's state in a signed cookie; empty without providers."""
    if not settings.oidc:
        return []
    key = hmac.digest(load_secret(settings.data_dir), b"sign-in at an identity provider", "sha256").hex()
    return [
        Middleware(SessionMiddleware, secret_key=key, session_cookie="thumbloop_oidc", max_age=SECONDS_AWAY)
    ]


@router.get("/login/with/{name}")
async def go(request: Request, services: ServicesHere, name: str, next: str = "/") -> Response:
    """Send the browser to the provider."""
    sso = _single_sign_on(request)
    sso.provider(name)
    request.session["next"] = own_path(next)
    try:
        client = await sso.client(name)
        back = f"{site_address(request, services.settings)}/login/with/{name}/return"
        response: Response = await client.authorize_redirect(request, back)
    except (httpx2.HTTPError, *sso.refusals) as error:
        return _trouble(name, "unreachable", next, error)
    return response


@router.get("/login/with/{name}/return")
async def come_back(request: Request, services: ServicesHere, name: str) -> Response:
    """Check the provider's answer and begin the person's session."""
    sso = _single_sign_on(request)
    provider = sso.provider(name)
    target = own_path(str(request.session.pop("next", "/")))
    try:
        client = await sso.client(name)
        claims = await _claims(request, client, provider)
    except httpx2.HTTPError as error:
        return _trouble(name, "unreachable", target, error)
    except sso.refusals as error:
        return _trouble(name, "failed", target, error)
    plain = await to_thread.run_sync(_begin_session, services, claims, name, provider)
    if plain is None:
        return _trouble(name, "refused", target, None)
    return signed_in(request, services, plain, target)


@router.get("/login/with/{name}/leave")
async def leave(request: Request, services: ServicesHere, name: str) -> Response:
    """Send somebody who has signed out here to the provider, to sign out there, too."""
    sso = _single_sign_on(request)
    provider = sso.provider(name)
    try:
        client = await sso.client(name)
        response: Response = await client.logout_redirect(
            request, f"{site_address(request, services.settings)}/login", client_id=provider.client_id
        )
    except (httpx2.HTTPError, *sso.refusals) as error:
        return _trouble(name, "unreachable", "/", error)
    return response


async def _claims(request: Request, client: Any, provider: OidcProvider) -> Claims:
    described = client.server_metadata
    token = await client.authorize_access_token(
        request,
        claims_options={
            "iss": {"essential": True, "value": described["issuer"]},
            "aud": {"essential": True, "value": provider.client_id},
            "sub": {"essential": True},
            "exp": {"essential": True},
        },
        leeway=CLOCK_SKEW_SECONDS,
    )
    said = dict(token["userinfo"])  # of the ID token; KeyError if there was none
    groups_missing = bool(provider.admins or provider.users) and provider.groups_claim not in said
    if described.get("userinfo_endpoint") and ("email" not in said or groups_missing):
        more = await client.userinfo(token=token)
        if more.get("sub") != said["sub"]:
            raise ValueError("the provider's two answers are about different people")
        said = {**more, **said}
    groups = said.get(provider.groups_claim) or []
    return Claims(
        issuer=provider.issuer,
        subject=str(said["sub"]),
        email=str(said.get("email") or "") if said.get("email_verified") is True else "",
        groups=frozenset(map(str, groups if isinstance(groups, list) else [groups])),
    )


def _begin_session(services: ServicesHere, claims: Claims, name: str, provider: OidcProvider) -> str | None:
    """A new session of the person; None if they may not sign in."""

    def begin() -> str | None:
        with services.database.write() as session:
            user = account_of(session, claims, name, provider)
            return start_session(session, user.id, services.settings, provider=name) if user else None

    try:
        return begin()
    except IntegrityError:  # the same person's first sign-in, twice at once
        return begin()


def _trouble(name: str, why: Trouble, target: str, error: Exception | None) -> Response:
    """Back to the form, which says what went wrong; the log has the reason."""
    if error is not None:
        log.warning("A sign-in with %s did not work: %s: %s", name, type(error).__name__, error)
    query = urlencode({"next": target, "provider": name, "trouble": why}, quote_via=quote)
    return RedirectResponse(f"/login?{query}", status_code=303)


def _single_sign_on(request: Request) -> SingleSignOn:
    sso: SingleSignOn | None = request.app.state.single_sign_on
    if sso is None:
        raise HTTPException(404)
    return sso
