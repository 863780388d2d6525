"""The webhook's outbox: filled from the log of votes, claimed by one, and rid of what was erased."""

from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlmodel import select

from storage.chats import votes, webhook_outbox
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import Chat, Message, User, VoteEvent, WebhookDelivery, now
from storage.errors import BadSetting, Conflict, NotFound
from storage.privacy import erasure
from storage.settings import load_settings
from storage.settings.shown import shown_value
from tests.support.rows import add_person_with_reply
from tests.support.threads import at_once

AGE = timedelta(hours=72)
LEASE = timedelta(seconds=60)
SALT = b"s" * 32
SECRET = "whsec_" + "a2V5" * 8


def fill(database: Database) -> int:
    with database.write() as session:
        return webhook_outbox.fill_outbox(session, give_up_after=AGE)


def claim(database: Database, limit: int = 50, lease: timedelta = LEASE) -> list[webhook_outbox.Claim]:
    with database.write() as session:
        return webhook_outbox.claim_deliveries(session, limit=limit, lease=lease, salt=SALT)


def deliveries(database: Database) -> list[WebhookDelivery]:
    with database.read() as session:
        return list(session.exec(select(WebhookDelivery).order_by(sa.text("event_id"))))


def vote(database: Database, label: bool = True, **more: object) -> tuple[User, Chat, Message]:
    with database.write() as session:
        return add_person_with_reply(session, label=label, **more)


def test_votes_from_now_on_are_told_each_once_and_history_is_not(database: Database) -> None:
    vote(database)
    assert fill(database) == 0
    assert claim(database) == []
    person, chat, reply = vote(database, False, tags=["wrong"], comment="No.", correction="Yes.")
    with database.write() as session:
        votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True)
        votes.clear_vote(session, user_id=person.id, message_id=reply.id)
    assert fill(database) == 3
    assert fill(database) == 0
    cast, changed, cleared = claim(database)
    assert (cast.event, changed.event, cleared.event) == ("vote.cast", "vote.changed", "vote.cleared")
    assert cast.data == {
        "event_id": 2,
        "message_id": reply.id,
        "chat_id": chat.id,
        "user_hash": cast.data["user_hash"],
        "label": False,
        "tags": ["wrong"],
        "comment": "No.",
        "correction": "Yes.",
        "revision": 1,
        "model_version": "v1",
    }
    assert person.id not in str(cast.data)
    assert (cleared.data["label"], cleared.data["revision"]) == (None, 3)


def test_imported_votes_and_quarantine_are_not_told(database: Database) -> None:
    fill(database)
    person, _, reply = vote(database)
    _, imported, _ = vote(database)
    with database.write() as session:
        session.execute(sa.update(Chat).where(Chat.id == imported.id).values(source="import:kto"))  # type: ignore[arg-type]
        session.add(VoteEvent(message_id=reply.id, user_id=person.id, action="quarantine", revision=2))
    assert fill(database) == 3
    assert [delivery.event_id for delivery in deliveries(database)] == [1]


def test_what_was_voted_long_ago_is_passed_over(database: Database) -> None:
    fill(database)
    vote(database)
    with database.write() as session:
        session.execute(sa.update(VoteEvent).values(created_at=now() - AGE))
    assert fill(database) == 1
    assert deliveries(database) == []


def test_several_servers_never_have_the_same_delivery(database: Database) -> None:
    fill(database)
    for _ in range(24):
        vote(database)
    claimed: list[str] = []

    def work() -> None:
        while fill(database):
            pass
        while len(claimed) <= 24 and (found := claim(database, limit=3)):
            claimed.extend(each.id for each in found)

    at_once([work] * 4)
    assert len(claimed) == len(set(claimed)) == 24


def test_a_claim_of_a_moment_later_is_not_taken_for_one_before_the_clock_was_set_back(
    database: Database,
) -> None:
    """Another server may read the clock, and claim, between our look at the clock and at the rows."""
    fill(database)
    vote(database)
    fill(database)
    claim(database, lease=AGE)
    with database.write() as session:
        (delivery,) = session.exec(select(WebhookDelivery)).all()
        assert delivery.lease_until is not None
        delivery.lease_until += timedelta(seconds=2)
    assert claim(database, lease=AGE) == []
    with database.write() as session:
        (delivery,) = session.exec(select(WebhookDelivery)).all()
        assert delivery.lease_until is not None
        delivery.lease_until += timedelta(hours=1)
    assert len(claim(database, lease=AGE)) == 1


def test_a_lease_that_ran_out_goes_to_another_and_the_first_reports_in_vain(database: Database) -> None:
    fill(database)
    vote(database)
    fill(database)
    (dead,) = claim(database, lease=timedelta(0))
    (alive,) = claim(database)
    assert (alive.id, alive.attempt, dead.attempt) == (dead.id, 2, 1)
    with database.write() as session:
        late = webhook_outbox.note_failure(session, dead, "late", retry_in=timedelta(0), give_up_after=AGE)
        assert late is False
        assert webhook_outbox.note_delivered(session, alive) is True
    (delivery,) = deliveries(database)
    assert delivery.delivered_at is not None
    assert (delivery.last_error, delivery.lease_until) == (None, None)
    assert claim(database) == []


def test_an_erased_vote_is_not_sent(database: Database) -> None:
    fill(database)
    person, _, _ = vote(database, comment="xylophone")
    fill(database)
    (claimed,) = claim(database, lease=timedelta(0))
    assert claimed.data["comment"] == "xylophone"
    with database.write() as session:
        erasure.erase_user(session, person.id, by="admin")
    assert claim(database) == []
    (delivery,) = deliveries(database)
    assert delivery.failed_at is not None
    assert delivery.last_error == "The vote was erased."


def test_a_delivery_is_tried_until_its_vote_is_too_old_and_again_when_asked(database: Database) -> None:
    fill(database)
    vote(database)
    fill(database)
    (first,) = claim(database)
    with database.write() as session:
        webhook_outbox.note_failure(
            session, first, "no " * 1000, retry_in=timedelta(hours=1), give_up_after=AGE
        )
    assert claim(database) == []
    (waiting,) = deliveries(database)
    assert waiting.failed_at is None
    assert waiting.next_attempt_at > now() + timedelta(minutes=50)
    assert len(waiting.last_error or "") == webhook_outbox.ERROR_CHARS
    with database.write() as session:
        webhook_outbox.retry_delivery(session, first.id)
    (second,) = claim(database)
    with database.write() as session:
        webhook_outbox.note_failure(
            session, second, "no", retry_in=timedelta(hours=1), give_up_after=timedelta()
        )
    (given_up,) = deliveries(database)
    assert given_up.failed_at is not None
    with database.write() as session:
        assert webhook_outbox.retry_delivery(session, first.id).failed_at is None
    (third,) = claim(database)
    with database.write() as session:
        webhook_outbox.note_delivered(session, third)
        with pytest.raises(Conflict, match="answered already"):
            webhook_outbox.retry_delivery(session, first.id)
        with pytest.raises(NotFound):
            webhook_outbox.retry_delivery(session, new_id())


def test_old_deliveries_are_removed_and_waiting_ones_stay(database: Database) -> None:
    fill(database)
    for _ in range(3):
        vote(database)
    fill(database)
    old, kept, _ = deliveries(database)
    long_ago = now() - webhook_outbox.KEPT - timedelta(days=1)
    with database.write() as session:
        session.execute(sa.update(WebhookDelivery).values(created_at=long_ago))
        for delivery, at in ((old, long_ago), (kept, now())):
            delivery.delivered_at = at
            session.add(delivery)
        assert webhook_outbox.remove_old_deliveries(session) == 1
    assert len(deliveries(database)) == 2


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"webhook_url": "example.org/votes", "webhook_secret": SECRET}, "WEBHOOK_URL='example.org/votes'"),
        ({"webhook_url": "https://me:pass@example.org/"}, "leave user and password out"),
        ({"webhook_url": "https://example.org/"}, "WEBHOOK_SECRET=…: .* docs/webhook.md"),
        ({"webhook_secret": "whsec_c2hvcnQ="}, "24 to 64 bytes"),
        ({"webhook_secret": SECRET.removeprefix("whsec_")}, "whsec_"),
    ],
)
def test_an_address_without_a_proper_secret_is_refused_and_the_secret_is_not_shown(
    given: dict[str, str], words: str
) -> None:
    with pytest.raises(BadSetting, match=words) as refusal:
        load_settings(**given)
    assert given.get("webhook_secret", "-" * 99) not in refusal.value.message
    assert SECRET not in shown_value("webhook_secret", SECRET)


def test_a_clock_that_was_set_back_does_not_prolong_a_claim(database: Database) -> None:
    fill(database)
    vote(database)
    fill(database)
    (claimed,) = claim(database)
    assert claim(database) == []
    with database.write() as session:
        delivery = session.get_one(WebhookDelivery, claimed.id)
        assert delivery.lease_until is not None
        delivery.lease_until += timedelta(hours=1)
    assert [again.id for again in claim(database)] == [claimed.id]
