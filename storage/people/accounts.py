"""What admins do to accounts and API tokens, each with its audit event. `by` is an id, or `thumbloop`."""

from datetime import timedelta

from sqlmodel import Session

from storage.db import audit
from storage.db.tables import ApiToken, User
from storage.errors import Conflict, InvalidInput
from storage.people import tokens, users

MOST_DAYS = 36_500


def create(session: Session, name: str, *, role: str, password: str, by: str) -> User:
    """Add an account; raises InvalidInput, or Conflict if the name is taken."""
    user = users.create_user(session, name, role=role, password=password)
    audit.record(session, by, "create user", user.id, role=role)
    return user


def change(
    session: Session,
    user_id: str,
    *,
    by: str,
    role: str | None = None,
    disabled: bool | None = None,
    password: str | None = None,
) -> int:
    """Change what is given and end the account's sessions, links and tokens; returns how many.

    Raises NotFound, InvalidInput, and Conflict for one's own role or access: nobody locks themselves out.
    """
    account = users.get_user(session, user_id)
    if account.name is None:
        raise Conflict("This is no account: visitors and end users have no role and no password.")
    if by == user_id and (role is not None or disabled is not None):
        raise Conflict("This is your own account; another admin or `thumbloop user` has to do that.")
    ended = 0
    if role is not None:
        ended += users.set_role(session, user_id, role)
        audit.record(session, by, "set role", user_id, role=role)
    if disabled is not None:
        ended += users.set_disabled(session, user_id, disabled)
        audit.record(session, by, "disable user" if disabled else "enable user", user_id)
    if password is not None:
        ended += users.set_password(session, user_id, password)
        audit.record(session, by, "set password", user_id)
    return ended


def issue_token(session: Session, name: str, *, role: str, days: int, by: str) -> tuple[ApiToken, str]:
    """An API token for the account of this name, created if needed, and its plain text. 0 days: for ever.

    Raises InvalidInput, or Conflict if the account has another role.
    """
    if not 0 <= days <= MOST_DAYS:
        raise InvalidInput(f"days is {days}; it must be from 0 to {MOST_DAYS}.", field="days")
    name = name.strip()
    user = users.ensure_user(session, name, role)
    ttl = timedelta(days=days) if days else None
    token, plain = tokens.create_token(session, user.id, name=name, ttl=ttl)
    audit.record(session, by, "create token", token.id, user=user.id)
    return token, plain


def revoke_token(session: Session, token_id: str, *, by: str) -> None:
    """Revoke an API token at once; raises NotFound."""
    tokens.revoke_token(session, token_id)
    audit.record(session, by, "revoke token", token_id)
