"""Secrets that stand for a person: API tokens, browser sessions and one-time sign-in links.

Only a SHA-256 of each is stored: 32 random bytes need no slow hash. Knows no cookies or headers.
"""

import hashlib
import secrets
from collections.abc import Sequence
from datetime import timedelta

from sqlmodel import Session, col, select

from storage.errors import InvalidInput, NotAuthenticated, NotFound
from storage.tables import ApiToken, User, now

PREFIX = "tl_"
KINDS = ("api", "session", "login")


def create_token(
    session: Session, user_id: str, *, name: str, kind: str = "api", ttl: timedelta | None = None
) -> tuple[ApiToken, str]:
    """Add a token; the plain text is returned this once and stored nowhere."""
    if kind not in KINDS:
        raise InvalidInput(f"The token kind {kind!r} is not one of {', '.join(KINDS)}.", field="kind")
    plain = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        user_id=user_id,
        name=name,
        kind=kind,
        prefix=plain[:8],
        sha256=_digest(plain),
        expires_at=now() + ttl if ttl is not None else None,
    )
    session.add(token)
    session.flush()
    return token, plain


def authenticate(session: Session, plain: str, *, kinds: Sequence[str] = ("api", "session")) -> User | None:
    """The person behind a secret; None if it is unknown, expired, revoked, or the person disabled."""
    token = _valid(session, plain, kinds)
    if token is None:
        return None
    user = session.get(User, token.user_id)
    return user if user is not None and not user.disabled else None


def redeem_login(session: Session, plain: str) -> User:
    """Use up a one-time link; raises NotAuthenticated if it was used, has expired or never was."""
    user = authenticate(session, plain, kinds=("login",))
    if user is None:
        raise NotAuthenticated(
            "This link was used already or has expired; `thumbloop admin-link` prints a new one.",
            code="login_link_used",
        )
    revoke_plain(session, plain)
    return user


def revoke_token(session: Session, token_id: str) -> None:
    token = session.get(ApiToken, token_id)
    if token is None:
        raise NotFound(f"There is no token {token_id}; `thumbloop token list` shows them.")
    token.revoked_at = now()
    session.add(token)


def revoke_plain(session: Session, plain: str) -> None:
    token = session.exec(select(ApiToken).where(ApiToken.sha256 == _digest(plain))).first()
    if token is not None:
        token.revoked_at = now()
        session.add(token)
        session.flush()


def list_tokens(session: Session, kind: str = "api") -> list[ApiToken]:
    return list(session.exec(select(ApiToken).where(ApiToken.kind == kind).order_by(col(ApiToken.id))))


def _valid(session: Session, plain: str, kinds: Sequence[str]) -> ApiToken | None:
    token = session.exec(select(ApiToken).where(ApiToken.sha256 == _digest(plain))).first()
    if token is None or token.kind not in kinds or token.revoked_at is not None:
        return None
    return None if token.expires_at is not None and token.expires_at <= now() else token


def _digest(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
