"""Quarantine: a person's votes are kept, but not counted, trained on or (by default) exported until released.

Each of their votes gets a new event, so earlier snapshots do not change. The event keeps the vote's time;
the audit log has the time of the quarantine.
"""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from storage.chats.votes import lock_vote_log
from storage.db import audit
from storage.db.rows import count_changed
from storage.db.tables import User, Vote, VoteEvent
from storage.errors import Conflict
from storage.people.users import get_user

QUARANTINE, RELEASE = "quarantine", "release"


@dataclass(frozen=True)
class QuarantineReport:
    """Whether the person is quarantined now, and how many votes changed."""

    quarantined: bool
    votes: int


def set_quarantine(
    session: Session, user_id: str, quarantined: bool, *, by: str, reason: str = ""
) -> QuarantineReport:
    """Quarantine or release a person; their later votes are treated alike. Repeating it changes nothing.

    It applies to all end users of an application's account too, whatever state each was in. Raises NotFound,
    or Conflict for a person who was erased.
    """
    lock_vote_log(session)
    user = get_user(session, user_id)
    if user.erased_at is not None:
        raise Conflict(f"The user {user_id} was erased; there are no votes to set aside.")
    if user.quarantined == quarantined:
        return QuarantineReport(quarantined, 0)
    # Includes an application's end users: only the application knows who they are.
    whole = (col(User.id) == user_id) | (col(User.app_id) == user_id)
    session.execute(
        sa.update(User)
        .where(whole, col(User.erased_at).is_(None))
        .values(quarantined=quarantined)
        .execution_options(synchronize_session="fetch")
    )
    action = QUARANTINE if quarantined else RELEASE
    changed = _change_votes(session, select(User.id).where(whole), quarantined, action)
    audit.record(session, by, action, user_id, votes=changed, reason=reason)
    session.flush()
    return QuarantineReport(quarantined, changed)


def _change_votes(session: Session, people: SelectOfScalar[str], quarantined: bool, action: str) -> int:
    standing = (
        col(Vote.user_id).in_(people),
        col(Vote.label).is_not(None),
        col(Vote.quarantined).is_not(quarantined),
    )
    kept = ("message_id", "user_id", "label", "tags", "comment", "correction")
    changes = {
        "action": sa.literal(action),
        "quarantined": sa.literal(quarantined),
        "revision": col(Vote.revision) + 1,
        "created_at": col(Vote.updated_at),
    }
    events = sa.select(*(getattr(Vote, name) for name in kept), *changes.values())
    # The log first: afterwards, the changed votes cannot be distinguished from the others.
    log = sa.insert(VoteEvent).from_select([*kept, *changes], events.where(*standing).order_by(col(Vote.id)))
    session.execute(log)
    values = {"quarantined": quarantined, "revision": col(Vote.revision) + 1}
    changed = sa.update(Vote).where(*standing).values(values)
    return count_changed(session, changed.execution_options(synchronize_session=False))
