"""End users: the people behind an application that calls the API for them.

Each is a separate person with their own chats and votes, so limits, quarantine and erasure apply to each
individually. The application's name for them is stored only as a hash keyed with the installation's secret.
"""

import hmac

import sqlalchemy as sa
from sqlmodel import Session, select

from storage.db.tables import User

SEPARATOR = "/"  # between the application's account and its name for an end user, as people type them


def ensure_end_user(session: Session, app_id: str, name: str, *, salt: bytes) -> User:
    """The end user that the application `app_id` calls `name`, created if needed.

    An end user of a quarantined application is quarantined too.
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
        return session.exec(select(User).where(User.app_key == _key(salt, app_id, name))).one()
    return person


def find_end_user(session: Session, app_id: str, name: str, *, salt: bytes) -> User | None:
    return session.exec(select(User).where(User.app_key == _key(salt, app_id, name))).first()


def speaks_for(session: Session, user_id: str, person_id: str) -> bool:
    """Whether `user_id` may act for that person: it is the same person, or their application."""
    return user_id == person_id or session.get_one(User, person_id).app_id == user_id


def _key(salt: bytes, app_id: str, name: str) -> str:
    """The keyed hash; it differs between applications, since a name in two of them can mean two people."""
    return hmac.digest(salt, f"{app_id}\0{name}".encode(), "sha256").hex()
