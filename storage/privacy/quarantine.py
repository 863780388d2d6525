"""Quarantine, of a person or of single votes: these are kept, but not counted, trained on or (by default)
exported until released.

Each of the votes gets a new event, so earlier snapshots do not change. The event keeps the vote's time;
the audit log has the time of the quarantine.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats.votes import lock_vote_log
from storage.db import audit
from storage.db.rows import count_changed
from storage.db.tables import User, Vote, VoteEvent
from storage.errors import Conflict, NotFound
from storage.people.users import get_user

QUARANTINE, RELEASE = "quarantine", "release"
EXCLUDE, INCLUDE = "exclude vote", "include vote"


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
    theirs = col(Vote.user_id).in_(select(User.id).where(whole))
    changed = _change_votes(session, theirs & col(Vote.excluded).is_(False), quarantined)
    audit.record(session, by, action, user_id, votes=changed, reason=reason)
    session.flush()
    return QuarantineReport(quarantined, changed)


def set_quarantines(
    session: Session,
    quarantined: bool,
    *,
    user_ids: Collection[str] = (),
    vote_ids: Collection[str] = (),
    by: str,
    reason: str = "",
) -> list[str]:
    """Quarantine or release these people and those of these votes.

    Returns the ids of those who were not so before. Raises NotFound and Conflict, and then changes none.
    """
    lock_vote_log(session)
    people = {*user_ids, *(vote.user_id for vote in _find_votes(session, vote_ids))}
    changing = [one for one in sorted(people) if get_user(session, one).quarantined != quarantined]
    for user_id in changing:
        set_quarantine(session, user_id, quarantined, by=by, reason=reason)
    return changing


def set_excluded(
    session: Session, vote_ids: Collection[str], excluded: bool, *, by: str, reason: str = ""
) -> int:
    """Exclude single votes, whatever they are changed to later, or include them again.

    Returns how many were not so before; repeating it changes nothing. A vote of a quarantined person stays
    quarantined. Raises NotFound, and then changes none.
    """
    lock_vote_log(session)
    changing = [vote for vote in _find_votes(session, vote_ids) if vote.excluded != excluded]
    for vote in changing:
        vote.excluded = excluded
        audit.record(session, by, EXCLUDE if excluded else INCLUDE, vote.id, reason=reason)
    session.flush()
    free = select(User.id).where(col(User.quarantined).is_(False))
    theirs = col(Vote.id).in_([vote.id for vote in changing]) & col(Vote.user_id).in_(free)
    _change_votes(session, theirs, excluded)
    return len(changing)


def _find_votes(session: Session, vote_ids: Collection[str]) -> Sequence[Vote]:
    found = session.exec(select(Vote).where(col(Vote.id).in_(vote_ids))).all()
    unknown = set(vote_ids) - {vote.id for vote in found}
    if unknown:
        raise NotFound(f"There is no vote {min(unknown)}.")
    return found


def _change_votes(session: Session, which: sa.ColumnElement[bool], quarantined: bool) -> int:
    standing = (
        which,
        col(Vote.label).is_not(None),
        col(Vote.quarantined).is_not(quarantined),
    )
    kept = ("message_id", "user_id", "label", "tags", "comment", "correction", "share")
    changes = {
        "action": sa.literal(QUARANTINE if quarantined else RELEASE),
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
