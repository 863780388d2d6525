"""Which model versions learned from votes that were taken back since: erased, or without consent now.

A model cannot unlearn; each such version says how many votes, until a retrain from the base replaces it.
A version that was continued from another learned from all that this one did. Knows the lineage that runs
keep ({"votes": [[message, user], …], "continued_from": id or null}); knows nobody's reasons.
"""

from collections.abc import Collection, Iterable
from itertools import islice

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.tables import Chat, Message, ModelVersion, TrainingRun, VoteEvent

ERASED = "erase"  # the action of an event whose content is gone
AT_ONCE = 500

Key = tuple[str, str]  # the ids of a reply and of the person who voted on it


def versions_trained_on(session: Session, keys: Collection[Key]) -> dict[str, ModelVersion]:
    """The versions whose lineage has any of these votes, by name."""
    wanted = set(keys)
    if not wanted:
        return {}
    found: dict[str, ModelVersion] = {}
    ids = set()
    for version, run in _lineage(session):  # in the order of their numbers: each after what it continued from
        if _continued_from(run) in ids or not wanted.isdisjoint(_used(run)):
            found[version.name] = version
            ids.add(version.id)
    return found


def mark_affected(session: Session, keys: Collection[Key]) -> list[str]:
    """Count anew what each version trained on these votes has lost; the versions that have lost some."""
    affected = versions_trained_on(session, keys)
    for version in affected.values():
        count_lost(session, version)
    return [name for name, version in affected.items() if version.erased_votes]


def count_lost(session: Session, version: ModelVersion) -> None:
    """Set the version's `erased_votes` to what is so now, as also at its publication."""
    used: set[Key] = set()
    ancestor: ModelVersion | None = version
    while ancestor is not None and (run := session.get(TrainingRun, ancestor.run_id)) is not None:
        used |= _used(run)
        before = _continued_from(run)
        ancestor = session.get(ModelVersion, before) if before is not None else None
    session.flush()
    version.erased_votes = _count_lost(session, used)
    session.add(version)
    session.flush()


def _lineage(session: Session) -> Iterable[tuple[ModelVersion, TrainingRun]]:
    return session.exec(
        select(ModelVersion, TrainingRun)
        .join(TrainingRun, col(TrainingRun.id) == ModelVersion.run_id)
        .order_by(col(ModelVersion.number))
    ).all()


def _used(run: TrainingRun) -> set[Key]:
    return {(message, user) for message, user in (run.snapshot or {}).get("votes", [])}


def _continued_from(run: TrainingRun) -> str | None:
    """The id of the version whose adapter this run began with, if it did."""
    found: str | None = (run.snapshot or {}).get("continued_from")
    return found


def _count_lost(session: Session, used: set[Key]) -> int:
    lost = 0
    keys = iter(sorted(used))
    while page := list(islice(keys, AT_ONCE)):
        ids = {message for message, _ in page}
        gone = set(
            session.exec(
                select(Message.id)
                .join(Chat, col(Chat.id) == Message.chat_id)
                .where(
                    col(Message.id).in_(ids),
                    (col(Message.state) == "erased") | col(Chat.consent).is_(False),
                )
            )
        )
        erased = session.execute(
            sa.select(col(VoteEvent.message_id), col(VoteEvent.user_id)).where(
                col(VoteEvent.message_id).in_(ids), col(VoteEvent.action) == ERASED
            )
        )
        taken_back = {(message, user) for message, user in erased}
        lost += sum(key[0] in gone or key in taken_back for key in page)
    return lost
