"""The webhook's outbox: the vote events to send, each claimed by one server at a time.

The log of vote events is durable: an event is committed with its vote. Filling the outbox from the log,
claiming a delivery and recording its outcome are short transactions; a server may be killed between any two.
The content is read from the event at each attempt, so an erased vote is no longer sent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.chats.votes import latest_event_id, lock_vote_log
from storage.db.database import database_now
from storage.db.ids import is_id
from storage.db.tables import Chat, Message, ModelVersion, VoteEvent, WebhookCursor, WebhookDelivery
from storage.errors import Conflict, NotFound
from storage.files.installation_key import pseudonym

EVENTS = {"cast": "vote.cast", "change": "vote.changed", "clear": "vote.cleared"}
IMPORTED = "import:"  # the prefix of an imported chat's source
FILL = 500  # events processed in one transaction
KEPT = timedelta(days=30)  # after delivery or giving up
ERROR_CHARS = 500


@dataclass(frozen=True)
class Claim:
    """A delivery that one server may send now; `attempt` counts from 1, and only the latest can report."""

    id: str
    attempt: int
    event: str
    voted_at: datetime
    data: dict[str, Any]


def fill_outbox(session: Session, *, give_up_after: timedelta) -> int:
    """Turn the next vote events into deliveries; returns how many events were processed.

    The first call only records the end of the log, so a new webhook does not get the old events. Events
    older than `give_up_after`, as after a long time without a webhook, are skipped.
    """
    cursor = session.exec(select(WebhookCursor).with_for_update()).first()
    if cursor is None:
        lock_vote_log(session)  # two servers may start at once
        if session.get(WebhookCursor, 1) is None:
            session.add(WebhookCursor(event_id=latest_event_id(session)))
            session.flush()
        return 0
    events = session.exec(
        select(VoteEvent, Chat.source)
        .join(Message, col(Message.id) == VoteEvent.message_id)
        .join(Chat, col(Chat.id) == Message.chat_id)
        .where(col(VoteEvent.id) > cursor.event_id)
        .order_by(col(VoteEvent.id))
        .limit(FILL)
    ).all()
    if not events:
        return 0
    moment = database_now(session)
    for event, source in events:
        assert event.id is not None
        sent = event.action in EVENTS and not source.startswith(IMPORTED)
        if sent and event.created_at + give_up_after > moment:
            session.add(
                WebhookDelivery(event_id=event.id, event=EVENTS[event.action], next_attempt_at=moment)
            )
        cursor.event_id = event.id
    session.add(cursor)
    session.flush()
    return len(events)


def claim_deliveries(session: Session, *, limit: int, lease: timedelta, salt: bytes) -> list[Claim]:
    """Claim the deliveries that are due, oldest first; no other server gets them until the lease ends.

    Gives up deliveries whose vote was erased. `salt` keys the pseudonyms.
    """
    moment, until = database_now(session), col(WebhookDelivery.lease_until)
    due = session.exec(
        select(WebhookDelivery)
        .where(
            col(WebhookDelivery.delivered_at).is_(None),
            col(WebhookDelivery.failed_at).is_(None),
            col(WebhookDelivery.next_attempt_at) <= moment,
            # A lease longer than any can be was given before the database's clock was set back.
            until.is_(None) | (until <= moment) | (until > moment + lease),
        )
        .order_by(col(WebhookDelivery.next_attempt_at), col(WebhookDelivery.event_id))
        .limit(limit)
        .with_for_update(skip_locked=True)
    ).all()
    events = _events(session, [delivery.event_id for delivery in due])
    claims = []
    for delivery in due:
        event, chat_id, version = events[delivery.event_id]
        if event.action not in EVENTS:
            delivery.failed_at, delivery.last_error = moment, "The vote was erased."
        else:
            delivery.attempts += 1
            delivery.lease_until = moment + lease
            claims.append(
                Claim(
                    id=delivery.id,
                    attempt=delivery.attempts,
                    event=delivery.event,
                    voted_at=event.created_at,
                    data=_data(event, chat_id, version, salt),
                )
            )
        session.add(delivery)
    session.flush()
    return claims


def note_delivered(session: Session, claim: Claim) -> bool:
    """Record that the receiver accepted it; False if a later attempt has claimed the delivery."""
    moment = database_now(session)
    return _note(session, claim, {"delivered_at": moment, "failed_at": None, "last_error": None})


def note_failure(
    session: Session, claim: Claim, error: str, *, retry_in: timedelta | None, give_up_after: timedelta
) -> bool:
    """Record a failed attempt; schedules a retry unless `retry_in` is None or the vote would be too old.

    Returns False if a later attempt has claimed the delivery.
    """
    moment = database_now(session)
    values: dict[str, Any] = {"last_error": error[:ERROR_CHARS]}
    if retry_in is None or moment + retry_in > claim.voted_at + give_up_after:
        values["failed_at"] = moment
    else:
        values["next_attempt_at"] = moment + retry_in
    return _note(session, claim, values)


def list_deliveries(session: Session, *, limit: int, before: str | None = None) -> list[WebhookDelivery]:
    """The deliveries, newest first; `before` is the id of the last one on the previous page."""
    query = select(WebhookDelivery).order_by(col(WebhookDelivery.id).desc()).limit(limit)
    if before is not None:
        query = query.where(col(WebhookDelivery.id) < before)
    return list(session.exec(query))


def retry_delivery(session: Session, delivery_id: str) -> WebhookDelivery:
    """Make it due now, even if it was given up; raises NotFound, or Conflict if it was delivered."""
    delivery = session.get(WebhookDelivery, delivery_id) if is_id(delivery_id) else None
    if delivery is None:
        raise NotFound(f"There is no webhook delivery {delivery_id}.")
    if delivery.delivered_at is not None:
        raise Conflict(f"The delivery {delivery_id} was answered already.", code="already_delivered")
    delivery.failed_at = None
    delivery.next_attempt_at = database_now(session)
    session.add(delivery)
    session.flush()
    return delivery


def remove_old_deliveries(session: Session) -> int:
    """Delete deliveries that were delivered or given up over 30 days ago; returns how many."""
    over = database_now(session) - KEPT
    old = (col(WebhookDelivery.delivered_at) < over) | (col(WebhookDelivery.failed_at) < over)
    removed = session.execute(sa.delete(WebhookDelivery).where(old))
    return int(removed.rowcount)  # type: ignore[attr-defined]


def _events(session: Session, ids: Sequence[int]) -> dict[int, tuple[VoteEvent, str, int | None]]:
    rows = session.exec(
        select(VoteEvent, Message.chat_id, ModelVersion.number)
        .join(Message, col(Message.id) == VoteEvent.message_id)
        .outerjoin(ModelVersion, col(ModelVersion.id) == Message.model_version_id)
        .where(col(VoteEvent.id).in_(ids))
    )
    return {event.id or 0: (event, chat_id, version) for event, chat_id, version in rows}


def _data(event: VoteEvent, chat_id: str, version: int | None, salt: bytes) -> dict[str, Any]:
    return {
        "event_id": event.id,
        "message_id": event.message_id,
        "chat_id": chat_id,
        "user_hash": pseudonym(salt, event.user_id),
        "label": event.label,
        "tags": event.tags,
        "comment": event.comment,
        "correction": event.correction,
        "revision": event.revision,
        "model_version": f"v{version}" if version is not None else None,
    }


def _note(session: Session, claim: Claim, values: dict[str, Any]) -> bool:
    noted = session.execute(
        sa.update(WebhookDelivery)
        .where(
            col(WebhookDelivery.id) == claim.id,
            col(WebhookDelivery.attempts) == claim.attempt,
            col(WebhookDelivery.delivered_at).is_(None),
        )
        .values(values | {"lease_until": None})
    )
    return bool(noted.rowcount)  # type: ignore[attr-defined]
