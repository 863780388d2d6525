"""What an admin looks at for poisoned votes: what the newest run set aside, and the most active people."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db.ids import new_id
from storage.db.rows import newest_rows
from storage.db.tables import SetAsideVote
from storage.registry.training_runs import list_runs

AT_ONCE = 500
RUNS = 20  # runs that are searched for one that trained


class Reason(NamedTuple):
    """Why a vote was set aside; `detail` is the phrase that is pushed, or empty."""

    reason: str
    detail: str


@dataclass
class PersonSetAside:
    """How many votes of a person were set aside, by reason, and the phrases that they push."""

    user_id: str
    votes: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    phrases: list[str] = field(default_factory=list)


def keep_set_aside(session: Session, run_id: str, votes: Iterable[tuple[str, str, Reason]]) -> None:
    """Store what a run set aside, by the ids of message and person; replaces what any other run did."""
    session.flush()
    session.execute(sa.delete(SetAsideVote))
    rows = {
        (message, user): {"message_id": message, "user_id": user, "reason": why.reason, "detail": why.detail}
        for message, user, why in votes
    }
    found = [row | {"id": new_id(), "run_id": run_id} for row in rows.values()]
    for start in range(0, len(found), AT_ONCE):
        session.execute(sa.insert(SetAsideVote), found[start : start + AT_ONCE])


def list_set_aside(session: Session, *, limit: int, before: str | None = None) -> list[SetAsideVote]:
    """The votes set aside, newest entries first, those after the entry `before`."""
    return newest_rows(session, SetAsideVote, limit=limit, before=before)


def people_set_aside(session: Session, limit: int = 100) -> list[PersonSetAside]:
    """The people with votes set aside, those with the most first."""
    columns = (SetAsideVote.user_id, SetAsideVote.reason, SetAsideVote.detail)
    rows = session.exec(select(*columns, func.count()).group_by(*map(col, columns)))
    people: dict[str, PersonSetAside] = {}
    for user_id, reason, detail, votes in rows:
        person = people.setdefault(user_id, PersonSetAside(user_id))
        person.votes += votes
        person.reasons[reason] += votes
        if detail and detail not in person.phrases:
            person.phrases.append(detail)
    return sorted(people.values(), key=lambda one: (-one.votes, one.user_id))[:limit]


def count_set_aside(session: Session) -> int:
    return session.exec(select(func.count()).select_from(SetAsideVote)).one()


def newest_influence(session: Session) -> list[dict[str, Any]]:
    """The most active people of the newest training: `user_id`, shares `up` and `down`, and `rows`."""
    runs = list_runs(session, limit=RUNS)
    return next((run.metrics["influence"] for run in runs if "influence" in run.metrics), [])
