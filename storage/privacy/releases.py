"""What an admin released from the guard: a person, or a person's votes on one reply.

The votes themselves do not change. A run uses the releases of the moment when it was requested.
"""

from datetime import datetime

from sqlmodel import Session, col, select

from storage.db import audit
from storage.db.rows import get_row
from storage.db.tables import GuardRelease, User, VoteEvent, now
from storage.errors import Conflict, NotFound
from storage.people.users import lock_user

RELEASE, WITHDRAW = "release from guard", "withdraw release from guard"


def release(
    session: Session, user_id: str, message_id: str | None = None, *, by: str, reason: str = ""
) -> GuardRelease:
    """Release a person, or only their vote on one reply; repeating it changes nothing.

    Releasing an application's account releases all its end users. Raises NotFound, or Conflict for a person
    who was erased.
    """
    user = lock_user(session, user_id)
    if user.erased_at is not None:
        raise Conflict(f"The user {user_id} was erased; there are no votes to release.")
    if message_id is not None and not _voted(session, user_id, message_id):
        raise NotFound(f"The user {user_id} has not voted on a message {message_id}.", field="message_id")
    for one in open_releases(session, user_id=user_id):
        if one.message_id == message_id:
            return one
    found = GuardRelease(user_id=user_id, message_id=message_id, by=by)
    session.add(found)
    audit.record(session, by, RELEASE, user_id, message_id=message_id, reason=reason)
    session.flush()
    return found


def withdraw(session: Session, release_id: str, *, by: str, reason: str = "") -> GuardRelease:
    """End a release; raises NotFound, or Conflict if it has ended."""
    found = get_row(session, GuardRelease, release_id, "release")
    if found.ended_at is not None:
        raise Conflict(f"The release {release_id} ended on {found.ended_at:%Y-%m-%d} already.")
    found.ended_at = now()
    detail = {"message_id": found.message_id, "reason": reason}
    audit.record(session, by, WITHDRAW, found.user_id, **detail)
    session.flush()
    return found


def open_releases(session: Session, *, user_id: str | None = None) -> list[GuardRelease]:
    """The releases that have not ended, newest first."""
    query = select(GuardRelease).where(col(GuardRelease.ended_at).is_(None))
    if user_id is not None:
        query = query.where(col(GuardRelease.user_id) == user_id)
    return list(session.exec(query.order_by(col(GuardRelease.id).desc())))


def released_at(session: Session, moment: datetime) -> tuple[set[str], set[tuple[str, str]]]:
    """The people, and the votes by (message id, user id), that were released at that moment."""
    standing = (
        col(GuardRelease.created_at) <= moment,
        col(GuardRelease.ended_at).is_(None) | (col(GuardRelease.ended_at) > moment),
    )
    rows = session.exec(select(GuardRelease.user_id, GuardRelease.message_id).where(*standing)).all()
    people = {user for user, message in rows if message is None}
    people.update(session.exec(select(User.id).where(col(User.app_id).in_(people))))
    return people, {(message, user) for user, message in rows if message is not None}


def _voted(session: Session, user_id: str, message_id: str) -> bool:
    voted = select(VoteEvent.id).where(VoteEvent.user_id == user_id, VoteEvent.message_id == message_id)
    return session.exec(voted.limit(1)).first() is not None
