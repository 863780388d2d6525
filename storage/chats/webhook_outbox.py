"""The webhook's outbox: the events to send, each claimed by one server at a time.

The log of vote events is durable: an event is committed with its vote. What happens to a version is added
in the transaction that does it. Filling the outbox from the log, claiming a delivery and recording its
outcome are short transactions; a server may be killed between any two. The content of a vote is read from its
event at each attempt, so an erased vote is no longer sent.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats.votes import latest_event_id, lock_vote_log
from storage.db.rows import AHEAD, count_changed, database_now, get_row, newest_rows
from storage.db.tables import BROUGHT, Chat, Message, ModelVersion, VoteEvent, WebhookCursor, WebhookDelivery
from storage.errors import Conflict
from storage.files.installation_key import pseudonym

EVENTS = {"cast": "vote.cast", "change": "vote.changed", "clear": "vote.cleared"}
FILL = 500  # events processed in one transaction
KEPT = timedelta(days=30)  # after delivery or giving up
ERROR_CHARS = 500


@dataclass(frozen=True)
class Claim:
    """A delivery that one server may send now; `attempt` counts from 1, and only the latest can report."""

    id: str
    attempt: int
    event: str
    happened_at: datetime
    data: dict[str, Any]


def fill_outbox(session: Session, *, give_up_after: timedelta) -> int:
    """Turn the next vote events into deliveries; returns how many events were processed.

    The first call only records the end of the log, so a new webhook does not get the old events.
    Votes that were imported, or cast by a judge model, are skipped, and so are events older than
    `give_up_after`, as after a long time without a webhook.
    """
    cursor = session.exec(select(WebhookCursor).with_for_update()).first()
    if cursor is None:
        lock_vote_log(session)  # two servers may start at once
        if session.get(WebhookCursor, 1) is None:
            session.add(WebhookCursor(event_id=latest_event_id(session)))
            session.flush()
        return 0
    query = select(VoteEvent, Chat.source).select_from(VoteEvent).join(Message).join(Chat)
    new = query.where(col(VoteEvent.id) > cursor.event_id).order_by(col(VoteEvent.id)).limit(FILL)
    events = session.exec(new).all()
    moment = database_now(session)
    for event, source in events:
        assert event.id is not None
        name = EVENTS.get(event.action)
        if name and not source.startswith(BROUGHT) and event.created_at + give_up_after > moment:
            session.add(WebhookDelivery(event_id=event.id, event=name, next_attempt_at=moment))
        cursor.event_id = event.id
    session.flush()
    return len(events)


def tell(session: Session, event: str, data: dict[str, Any]) -> None:
    """Add an event that is no vote, such as `version.rolled_back`; `data` must not concern a person."""
    moment = database_now(session)
    session.add(WebhookDelivery(event=event, data=data, created_at=moment, next_attempt_at=moment))
    session.flush()


def claim_deliveries(session: Session, *, limit: int, lease: timedelta, salt: bytes) -> list[Claim]:
    """Claim the deliveries that are due, oldest first; no other server gets them until the lease ends.

    Gives up deliveries whose vote was erased. `salt` keys the pseudonyms.
    """
    moment, until = database_now(session), col(WebhookDelivery.lease_until)
    due = session.exec(
        select(WebhookDelivery, VoteEvent, Message.chat_id, ModelVersion.number)
        .select_from(WebhookDelivery)
        .outerjoin(VoteEvent)
        .outerjoin(Message)
        .outerjoin(ModelVersion)
        .where(
            col(WebhookDelivery.delivered_at).is_(None),
            col(WebhookDelivery.failed_at).is_(None),
            col(WebhookDelivery.next_attempt_at) <= moment,
            # A lease longer than any can be was given before the database's clock was set back.
            until.is_(None) | (until <= moment) | (until > moment + lease + AHEAD),
        )
        .order_by(col(WebhookDelivery.next_attempt_at), col(WebhookDelivery.event_id))
        .limit(limit)
        .with_for_update(skip_locked=True, of=WebhookDelivery)
    ).all()
    claims = []
    for delivery, event, chat_id, version in due:
        if event is not None and event.action not in EVENTS:
            delivery.failed_at, delivery.last_error = moment, "The vote was erased."
            continue
        delivery.attempts += 1
        delivery.lease_until = moment + lease
        happened_at = event.created_at if event is not None else delivery.created_at
        data = _data(event, chat_id, version, salt) if event is not None else delivery.data or {}
        claims.append(Claim(delivery.id, delivery.attempts, delivery.event, happened_at, data))
    session.flush()
    return claims


def note_delivered(session: Session, claim: Claim) -> bool:
    """Record that the receiver accepted a delivery; False if a later attempt has claimed it."""
    moment = database_now(session)
    return _note(session, claim, {"delivered_at": moment, "failed_at": None, "last_error": None})


def note_failure(
    session: Session, claim: Claim, error: str, *, retry_in: timedelta | None, give_up_after: timedelta
) -> bool:
    """Record a failed attempt; schedules a retry unless `retry_in` is None or the event would be too old.

    Returns False if a later attempt has claimed the delivery.
    """
    moment = database_now(session)
    values: dict[str, Any] = {"last_error": error[:ERROR_CHARS]}
    if retry_in is None or moment + retry_in > claim.happened_at + give_up_after:
        values["failed_at"] = moment
    else:
        values["next_attempt_at"] = moment + retry_in
    return _note(session, claim, values)


def list_deliveries(session: Session, *, limit: int, before: str | None = None) -> list[WebhookDelivery]:
    """The deliveries, newest first; `before` is the id of the last one on the previous page."""
    return newest_rows(session, WebhookDelivery, limit=limit, before=before)


def retry_delivery(session: Session, delivery_id: str) -> WebhookDelivery:
    """Make a delivery due now, even if it was given up; raises NotFound, or Conflict if it was delivered."""
    delivery = get_row(session, WebhookDelivery, delivery_id, "webhook delivery")
    if delivery.delivered_at is not None:
        raise Conflict(f"The delivery {delivery_id} was answered already.", code="already_delivered")
    delivery.failed_at = None
    delivery.next_attempt_at = database_now(session)
    return delivery


def remove_old_deliveries(session: Session) -> int:
    """Delete deliveries that were delivered or given up over 30 days ago; returns how many."""
    over = database_now(session) - KEPT
    old = (col(WebhookDelivery.delivered_at) < over) | (col(WebhookDelivery.failed_at) < over)
    return count_changed(session, sa.delete(WebhookDelivery).where(old))


def _data(event: VoteEvent, chat_id: str, version: int | None, salt: bytes) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "chat_id": chat_id,
        "user_hash": pseudonym(salt, event.user_id),
        **event.model_dump(include={"message_id", "label", "tags", "comment", "correction", "revision"}),
        "model_version": f"v{version}" if version is not None else None,
    }


def _note(session: Session, claim: Claim, values: dict[str, Any]) -> bool:
    claimed = (
        col(WebhookDelivery.id) == claim.id,
        col(WebhookDelivery.attempts) == claim.attempt,
        col(WebhookDelivery.delivered_at).is_(None),
    )
    outcome = sa.update(WebhookDelivery).where(*claimed).values(values | {"lease_until": None})
    return count_changed(session, outcome) > 0
