"""Secrets that identify a person: API tokens, browser sessions, and one-time links.

A link signs in (`login`), or lets a person choose a password (`password`). Only the SHA-256 of each secret is
stored: 32 random bytes need no slow hash.
"""

import hashlib
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.db import audit
from storage.db.rows import count_changed, database_now, execute_core, newest_rows
from storage.db.tables import ApiToken, Table, User, now
from storage.errors import InvalidInput, NotAuthenticated, NotFound

PREFIX = "tl_"
KINDS = ("api", "session", "login", "password")
SCOPES = ("read", "vote", "chat", "train")  # app/web/scopes.py says what each opens
SIGN_INS = ("session", "login", "password")  # all but API tokens
KEPT = timedelta(days=7)  # after a session or a link has ended

_tokens, _users = Table.metadata.tables["api_token"], Table.metadata.tables["user_account"]
# A Core statement, built once: every request begins with it.
_FIND = (
    sa.select(
        *_users.c["id", "name", "role", "disabled"],
        *_tokens.c["kind", "scopes", "expires_at", "revoked_at"],
    )
    .join_from(_tokens, _users, _users.c.id == _tokens.c.user_id)
    .where(_tokens.c.sha256 == sa.bindparam("sha256"))
)


@dataclass(frozen=True)
class Person:
    """The person that a secret identifies, and its scopes; anonymous people have no name."""

    id: str
    name: str | None
    role: str
    scopes: tuple[str, ...] = ()


def create_token(
    session: Session,
    user_id: str,
    *,
    name: str,
    kind: str = "api",
    scopes: Sequence[str] = (),
    ttl: timedelta | None = None,
) -> tuple[ApiToken, str]:
    """Add a token; returns it with its plain text, which is never stored. Raises InvalidInput."""
    if kind not in KINDS:
        raise InvalidInput(f"The token kind {kind!r} is not one of {', '.join(KINDS)}.", field="kind")
    for scope in scopes:
        if scope not in SCOPES:
            raise InvalidInput(f"The scope {scope!r} is not one of {', '.join(SCOPES)}.", field="scopes")
    plain = PREFIX + secrets.token_urlsafe(32)
    token = ApiToken(
        user_id=user_id,
        name=name,
        kind=kind,
        prefix=plain[:8],
        sha256=_digest(plain),
        scopes=" ".join(scope for scope in SCOPES if scope in scopes),
        expires_at=now() + ttl if ttl is not None else None,
    )
    session.add(token)
    session.flush()
    return token, plain


def authenticate(session: Session, plain: str, *, kinds: Sequence[str] = ("api", "session")) -> Person | None:
    """The person a secret identifies; None if it is unknown, expired or revoked, or they are disabled."""
    found = execute_core(session, _FIND, {"sha256": _digest(plain)}).one_or_none()
    if found is None or found.kind not in kinds or found.revoked_at is not None or found.disabled:
        return None
    if found.expires_at is not None and found.expires_at <= now():
        return None
    return Person(found.id, found.name, found.role, tuple(found.scopes.split()))


def redeem_login(session: Session, plain: str) -> Person:
    """Use up a one-time sign-in link; raises NotAuthenticated if it was used, has expired or is unknown."""
    user = check_login(session, plain)
    # A change of the account ends its sign-ins under the same lock, so it cannot miss this one.
    session.exec(select(User.id).where(User.id == user.id).with_for_update()).one()
    if not _end(session, col(ApiToken.sha256) == _digest(plain), col(ApiToken.kind) == "login"):
        raise _used_link()
    return user


def check_login(session: Session, plain: str) -> Person:
    """The person of an unused one-time sign-in link; raises NotAuthenticated."""
    user = authenticate(session, plain, kinds=("login",))
    if user is None:
        raise _used_link()
    return user


def revoke_token(session: Session, token_id: str) -> None:
    """End a token by its id; raises NotFound."""
    token = session.get(ApiToken, token_id)
    if token is None:
        raise NotFound(f"There is no token {token_id}; `thumbloop token list` shows them.")
    token.revoked_at = now()


def revoke_plain(session: Session, plain: str) -> str:
    """End the secret, if it has not ended; returns its name, empty if it is unknown."""
    _end(session, col(ApiToken.sha256) == _digest(plain))
    return session.exec(select(ApiToken.name).where(ApiToken.sha256 == _digest(plain))).first() or ""


def list_tokens(session: Session, kind: str = "api") -> list[ApiToken]:
    return list(session.exec(select(ApiToken).where(ApiToken.kind == kind).order_by(col(ApiToken.id))))


def list_sessions(session: Session, user_id: str, *, limit: int = 100) -> list[ApiToken]:
    """The sessions of a person that still work, newest first."""
    return newest_rows(session, ApiToken, ApiToken.user_id == user_id, *_working(), limit=limit)


def open_sessions(session: Session, user_ids: Sequence[str]) -> list[str]:
    """The user ids of these people's sessions that still work, one for each session."""
    return list(
        session.exec(select(ApiToken.user_id).where(col(ApiToken.user_id).in_(user_ids), *_working()))
    )


def sign_out(session: Session, user_id: str, session_id: str = "", *, by: str) -> int:
    """End a person's browser sessions and sign-in links, or one session; returns how many ended.

    Raises NotFound for a session that the person does not have.
    """
    theirs = col(ApiToken.user_id) == user_id
    if session_id:
        ended = _end(session, theirs, col(ApiToken.id) == session_id, col(ApiToken.kind) == "session")
        if not ended:
            raise NotFound(f"There is no session {session_id} that has not ended.")
    else:
        ended = end_all(session, user_id, SIGN_INS)
    audit.record(session, by, "sign out", user_id, ended=ended)
    return ended


def end_all(session: Session, user_id: str, kinds: Sequence[str] = KINDS) -> int:
    """End a person's secrets of these kinds; returns how many."""
    return _end(session, col(ApiToken.user_id) == user_id, col(ApiToken.kind).in_(kinds))


def remove_ended(session: Session) -> int:
    """Delete sessions and links that expired or were revoked over a week ago; returns how many."""
    over = database_now(session) - KEPT
    old = (col(ApiToken.expires_at) < over) | (col(ApiToken.revoked_at) < over)
    return count_changed(session, sa.delete(ApiToken).where(col(ApiToken.kind).in_(SIGN_INS), old))


def session_id_of(session: Session, plain: str) -> str | None:
    """The id of the session with this secret."""
    found = select(ApiToken.id).where(ApiToken.sha256 == _digest(plain), ApiToken.kind == "session")
    return session.exec(found).one_or_none()


def _working() -> tuple[sa.ColumnElement[bool], ...]:
    """The conditions of a session that still works."""
    return (
        col(ApiToken.kind) == "session",
        col(ApiToken.revoked_at).is_(None),
        col(ApiToken.expires_at).is_(None) | (col(ApiToken.expires_at) > now()),
    )


def _end(session: Session, *conditions: sa.ColumnElement[bool]) -> int:
    """End the secrets that meet the conditions and have not ended; returns how many."""
    still_open = sa.update(ApiToken).where(col(ApiToken.revoked_at).is_(None), *conditions)
    return count_changed(session, still_open.values(revoked_at=now()))


def _used_link() -> NotAuthenticated:
    return NotAuthenticated(
        "This link was used already or has expired; `thumbloop admin-link` prints a new one.",
        code="login_link_used",
    )


def _digest(plain: str) -> str:
    return hashlib.sha256(plain.encode()).hexdigest()
