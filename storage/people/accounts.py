"""What admins do to accounts and API tokens, each with its audit event. `by` is an id, or `thumbloop`."""

from collections.abc import Sequence
from datetime import timedelta

from sqlmodel import Session

from storage.db import audit
from storage.db.tables import ApiToken, User
from storage.errors import Conflict, InvalidInput, NotAuthenticated
from storage.people import tokens, users

MOST_DAYS = 36_500
PASSWORD_LINK = ("password",)  # the kind of its secret
PASSWORD_LINK_LIFE = timedelta(days=3)


def create(session: Session, name: str, *, role: str, password: str | None, by: str) -> User:
    """Add an account, without a password for somebody who is sent a link or signs in elsewhere.

    Raises InvalidInput, or Conflict if the name is taken.
    """
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


def issue_password_link(session: Session, user_id: str, *, by: str) -> tuple[ApiToken, str]:
    """The secret of a link by which the person chooses a password once, and its text. An earlier one ends.

    Raises NotFound, and Conflict for visitors, end users and disabled accounts.
    """
    account = users.get_user(session, user_id)
    if account.name is None or account.disabled:
        raise Conflict("Only an account that is not disabled can get a link to choose a password.")
    tokens.end_all(session, user_id, PASSWORD_LINK)
    token, plain = tokens.create_token(
        session, user_id, name="password link", kind=PASSWORD_LINK[0], ttl=PASSWORD_LINK_LIFE
    )
    audit.record(session, by, "create password link", token.id, user=user_id)
    return token, plain


def check_password_link(session: Session, plain: str) -> tokens.Person:
    """Whose link this is; raises NotAuthenticated if it was used, has expired or is unknown."""
    person = tokens.authenticate(session, plain, kinds=PASSWORD_LINK)
    if person is None:
        raise NotAuthenticated(
            "This link was used already or has expired; ask an admin for a new one.",
            code="password_link_used",
        )
    return person


def redeem_password_link(session: Session, plain: str, password: str) -> str:
    """Set the password and end the link with all else that is signed in; returns the account's id.

    Raises NotAuthenticated, and InvalidInput for a password that is too short; the link works on.
    """
    person = check_password_link(session, plain)
    users.lock_user(session, person.id)
    check_password_link(session, plain)  # another request may have used it meanwhile
    users.set_password(session, person.id, password)
    audit.record(session, person.id, "set password", person.id)
    return person.id


def issue_token(
    session: Session, name: str, *, role: str, days: int, by: str, scopes: Sequence[str] = ()
) -> tuple[ApiToken, str]:
    """An API token for the account of this name, created if needed, and its plain text. 0 days: for ever.

    Without `scopes` it may do what the role may.

    Raises InvalidInput, or Conflict if the account has another role.
    """
    if not 0 <= days <= MOST_DAYS:
        raise InvalidInput(f"days is {days}; it must be from 0 to {MOST_DAYS}.", field="days")
    name = name.strip()
    user = users.ensure_user(session, name, role)
    ttl = timedelta(days=days) if days else None
    token, plain = tokens.create_token(session, user.id, name=name, scopes=scopes, ttl=ttl)
    audit.record(session, by, "create token", token.id, user=user.id, scopes=token.scopes)
    return token, plain


def revoke_token(session: Session, token_id: str, *, by: str) -> None:
    """Revoke an API token at once; raises NotFound."""
    tokens.revoke_token(session, token_id)
    audit.record(session, by, "revoke token", token_id)
