"""Review queues: what is in each, in which order, and that what somebody has rated leaves theirs alone."""

from storage.db.database import Database
from storage.review.second_ratings import rate
from storage.review.voted_replies import VotedReply
from tests.support.rows import add_person_with_reply
from trainer.taste.review_queue import FEWEST, QUEUES, review_queue


def shown(votes: list[VotedReply]) -> list[tuple[str, bool]]:
    return [(vote.reply, vote.label) for vote in votes]


def fill(database: Database, *rated: tuple[str, bool]) -> str:
    """Votes on these replies to one question, oldest first; returns the id of an admin."""
    with database.write() as session:
        for reply, label in rated:
            person, *_ = add_person_with_reply(session, question="Why?", answer=reply, label=label)
    return person.id


def test_each_queue_has_its_votes_and_those_rated_leave_it(database: Database) -> None:
    admin = fill(database, ("a", True), ("b", False), ("a", False), ("c", True), ("d", False))
    with database.write() as session:
        assert shown(review_queue(session, "downs", by=admin)) == [("d", False), ("a", False), ("b", False)]
        assert shown(review_queue(session, "contradictory", by=admin)) == [("a", False), ("a", True)]
        random = review_queue(session, "random", by=admin)
        assert len(random) == 5
        assert shown(random) == shown(review_queue(session, "random", by=admin))
        by_id = {vote.id: vote for vote in random}
        assert list(by_id) != [vote.id for vote in review_queue(session, "random", by="another")]
        assert review_queue(session, "unsure", by=admin) == [], "too few to learn from"

        c = next(vote for vote in random if vote.reply == "c")
        rate(session, c.id, by=admin, label=False, note=None)
        assert ("c", True) not in shown(review_queue(session, "random", by=admin))
        # For others the vote is contradictory now.
        assert ("c", True) in shown(review_queue(session, "contradictory", by="another"))
        d = next(vote for vote in random if vote.reply == "d")
        rate(session, d.id, by=admin, label=None, note="Hm.")
        assert shown(review_queue(session, "downs", by=admin))[0] == ("d", False), "a note rates nothing"


def test_what_looks_like_both_kinds_is_unsure(database: Database) -> None:
    kinds = [("a short and friendly answer", True), ("go away and read a manual", False)]
    rated = [(f"{text} {n}", label) for n in range(FEWEST * 2) for text, label in kinds]
    admin = fill(database, *rated, ("a friendly manual: read a short answer and go away", True))
    with database.read() as session:
        assert review_queue(session, "unsure", by=admin)[0].reply.startswith("a friendly manual")
        assert len(review_queue(session, "unsure", by=admin)) == len(rated) + 1


def test_an_empty_store_has_empty_queues(database: Database) -> None:
    with database.read() as session:
        assert [review_queue(session, queue, by="x") for queue in QUEUES] == [[]] * len(QUEUES)
