"""Which votes an admin should rate a second time, and in which order: those that say most about the votes."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, get_args

from sqlmodel import Session

from storage.review.voted_replies import VotedReply, VoteFilter, list_votes

Queue = Literal["downs", "contradictory", "unsure", "random"]
QUEUES: tuple[Queue, ...] = get_args(Queue)
MOST_READ = 2000  # votes
FOLDS = 5
FEWEST = 8  # votes of each kind below which nothing can be learned

Votes = Sequence[VotedReply]


def review_queue(session: Session, queue: Queue, *, by: str) -> list[VotedReply]:
    """Of the newest votes, those that `by` has not rated, the most telling first.

    downs: thumbs down, newest first. contradictory: people or admins disagree on the same reply to the same
    question. unsure: a classifier of the words, trained on the other votes, gives both thumbs equal chances.
    random: in an order that stays the same for each admin, for an agreement that stands for all votes.
    """
    ordered = _ORDERS[queue](list_votes(session, VoteFilter(), limit=MOST_READ).votes, by)
    rated = {
        one.vote_id for vote in ordered for one in vote.reviews if one.by == by and one.label is not None
    }
    return [vote for vote in ordered if vote.id not in rated]


def _downs(votes: Votes, _: str) -> list[VotedReply]:
    return [vote for vote in votes if not vote.label]


def _contradictory(votes: Votes, _: str) -> list[VotedReply]:
    said: dict[tuple[str, str], set[bool | None]] = {}
    for vote in votes:
        labels = said.setdefault((vote.question, vote.reply), set())
        labels |= {vote.label, *(review.label for review in vote.reviews)} - {None}
    return [vote for vote in votes if len(said[vote.question, vote.reply]) > 1]


def _unsure(votes: Votes, _: str) -> list[VotedReply]:
    labels = [vote.label for vote in votes]
    if min(sum(labels), len(labels) - sum(labels)) < FEWEST:
        return []
    # Loading them takes a second, which only this needs.
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from threadpoolctl import threadpool_limits

    # Of characters, so that it works for languages without spaces. Weighed once and not in each fold, which
    # takes a fifth of the time: the weights know no labels.
    parts = TfidfVectorizer(analyzer="char_wb", ngram_range=(2, 3), sublinear_tf=True, max_features=20_000)
    texts = parts.fit_transform(f"{vote.question}\n{vote.reply}" for vote in votes)
    classifier = LogisticRegression(class_weight="balanced")  # both kinds weigh the same, however rare one is
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=0)
    # Beside other work several threads wait for each other at each small step: ten times as long.
    with threadpool_limits(1, user_api="blas"):
        liked = cross_val_predict(classifier, texts, labels, cv=folds, method="predict_proba")[:, 1]
    return [votes[place] for place in np.argsort(np.abs(liked - 0.5), kind="stable")]


def _random(votes: Votes, by: str) -> list[VotedReply]:
    return sorted(votes, key=lambda vote: hashlib.sha256(f"{by} {vote.id}".encode()).digest())


_ORDERS: dict[Queue, Callable[[Votes, str], list[VotedReply]]] = {
    "downs": _downs,
    "contradictory": _contradictory,
    "unsure": _unsure,
    "random": _random,
}
