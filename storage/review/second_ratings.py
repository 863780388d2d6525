"""Second ratings: an admin's thumb and note on a reply that was voted on, and how far raters agree."""

from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.chats.chats import check_text
from storage.chats.proportions import cohens_kappa
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


def rate(session: Session, vote_id: str, *, by: str, label: bool | None, note: str | None) -> Review | None:
    """Store an admin's rating and note in place of their earlier one; without either it is removed.

    Raises NotFound and InvalidInput.
    """
    get_row(session, Vote, vote_id, "vote")
    note = check_text(note or "", "note").strip() or None
    review = session.exec(select(Review).where(Review.vote_id == vote_id, Review.by == by)).first()
    if label is None and note is None:
        if review is not None:
            session.delete(review)
        return None
    review = review or Review(vote_id=vote_id, by=by)
    review.label, review.note, review.updated_at = label, note, now()
    session.add(review)
    session.flush()
    return review


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
