"""End users: the people behind an application that calls the API for them.

Each is a person of their own, with chats and votes of their own, so that limits, quarantine and erasure
hold for one of them. What the application calls them is kept as a keyed hash only, which nobody can undo
without the installation's secret.
"""

import hmac

import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from storage.db.tables import User

SEPARATOR = "/"  # between the application's account and its name for somebody, where people type both


def ensure_end_user(session: Session, app_id: str, name: str, *, salt: bytes) -> User:
    """The person whom the account `app_id` calls `name`, made when first named.

    An end user of a quarantined application is quarantined, too.
    """
    found = find_end_user(session, app_id, name, salt=salt)
    if found is not None:
        return found
    application = session.get_one(User, app_id)
    person = User(app_id=app_id, app_key=_key(salt, app_id, name), quarantined=application.quarantined)
    try:
        with session.begin_nested():
            session.add(person)
    except sa.exc.IntegrityError:  # another request named them first
        return session.exec(_named(salt, app_id, name)).one()
    return person


def find_end_user(session: Session, app_id: str, name: str, *, salt: bytes) -> User | None:
    return session.exec(_named(salt, app_id, name)).first()


def speaks_for(session: Session, user_id: str, person_id: str) -> bool:
    """Whether `user_id` may act for that person: it is they themselves, or the application they came by."""
    return user_id == person_id or session.get_one(User, person_id).app_id == user_id


def _named(salt: bytes, app_id: str, name: str) -> SelectOfScalar[User]:
    return select(User).where(col(User.app_key) == _key(salt, app_id, name))


def _key(salt: bytes, app_id: str, name: str) -> str:
    """Another for each application: what two of them call alike need not be one person."""
    return hmac.digest(salt, f"{app_id}\0{name}".encode(), "sha256").hex()
