"""Second ratings: an admin's thumb and note on a reply that was voted on, and how far raters agree."""

from collections.abc import Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.chats.chats import check_text
from storage.chats.proportions import cohens_kappa
from storage.db import audit
from storage.db.rows import get_row
from storage.db.tables import Review, Vote, now


@dataclass(frozen=True)
class Agreement:
    """Of the second ratings, how many say what the vote says.

    `kappa` is Cohen's κ (`cohens_kappa`).
    """

    ratings: int
    agreed: int
    kappa: float | None


def rate(
    session: Session,
    vote_id: str,
    *,
    by: str,
    label: bool | None = None,
    note: str | None = None,
    correction: str | None = None,
) -> Review | None:
    """Store an admin's rating, note and correction in place of their earlier ones; without any it is removed.

    Raises NotFound and InvalidInput.
    """
    get_row(session, Vote, vote_id, "vote")
    note = check_text(note or "", "note").strip() or None
    correction = check_text(correction or "", "correction").strip() or None
    review = session.exec(select(Review).where(Review.vote_id == vote_id, Review.by == by)).first()
    if label is None and note is None and correction is None:
        if review is not None:
            session.delete(review)
            audit.record(session, by, "review", vote_id)
        return None
    audit.record(session, by, "review", vote_id)
    review = review or Review(vote_id=vote_id, by=by)
    review.label, review.note, review.correction, review.updated_at = label, note, correction, now()
    session.add(review)
    session.flush()
    return review


def rate_all(
    session: Session,
    vote_ids: Sequence[str],
    *,
    by: str,
    label: bool | None = None,
    note: str | None = None,
) -> list[str]:
    """Rate those that the admin has not rated yet; without a rating and a note, take theirs back.

    Returns the ids of those that changed. Raises as `rate` does, and then changes none.
    """
    mine = select(Review.vote_id).where(Review.by == by, col(Review.vote_id).in_(vote_ids))
    rated = set(session.exec(mine))
    give = label is not None or bool((note or "").strip())
    changing = [one for one in dict.fromkeys(vote_ids) if (one in rated) != give]
    for one in changing:
        rate(session, one, by=by, label=label, note=note)
    return changing


def agreement(session: Session) -> Agreement:
    """Over all votes with a second rating."""
    labels = (col(Vote.label), col(Review.label))
    query = (
        sa.select(*labels, func.count())
        .join_from(Review, Vote, col(Vote.id) == Review.vote_id)
        .where(*(label.is_not(None) for label in labels))
        .group_by(*labels)
    )
    counts = {(bool(voted), bool(rated)): number for voted, rated, number in session.execute(query)}
    total = sum(counts.values())
    agreed = counts.get((True, True), 0) + counts.get((False, False), 0)
    voted_up = sum(number for (voted, _), number in counts.items() if voted)
    rated_up = sum(number for (_, rated), number in counts.items() if rated)
    kappa = cohens_kappa(counts.get((True, True), 0), voted_up, rated_up, total)
    return Agreement(total, agreed, kappa)
