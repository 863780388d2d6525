"""Secrets that identify a person: API tokens, browser sessions and one-time sign-in links.

Only the SHA-256 of each is stored: 32 random bytes need no slow hash.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.db.tables import ApiToken, Table, now
from storage.errors import InvalidInput, NotAuthenticated, NotFound

PREFIX = "tl_"
KINDS = ("api", "session", "login")

_tokens, _users = Table.metadata.tables["api_token"], Table.metadata.tables["user_account"]
# A Core statement, built once: every request begins with it.
_FIND = (
    sa.select(
        *_users.c["id", "name", "role", "disabled"],
        *_tokens.c["kind", "expires_at", "revoked_at"],
    )
    .join_from(_tokens, _users, _users.c.id == _tokens.c.user_id)
    .where(_tokens.c.sha256 == sa.bindparam("sha256"))
)


@dataclass(frozen=True)
class Person:
    """The person that a secret identifies; anonymous people have no name."""

    id: str
    name: str | None
    role: str


def create_token(
    session: Session, user_id: str, *, name: str, kind: str = "api", ttl: timedelta | None = None
) -> tuple[ApiToken, str]:
    """Add a token; returns it with its plain text, which is never stored. Raises InvalidInput."""
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


def authenticate(session: Session, plain: str, *, kinds: Sequence[str] = ("api", "session")) -> Person | None:
    """The person a secret identifies; None if it is unknown, expired or revoked, or they are disabled."""
    session.flush()  # a Core statement does not see the session's pending writes
    found = session.connection().execute(_FIND, {"sha256": _digest(plain)}).one_or_none()
    if found is None or found.kind not in kinds or found.revoked_at is not None or found.disabled:
        return None
    if found.expires_at is not None and found.expires_at <= now():
        return None
    return Person(found.id, found.name, found.role)


def redeem_login(session: Session, plain: str) -> Person:
    """Use up a one-time link; raises NotAuthenticated if it was used, has expired or is unknown."""
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


def _digest(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
