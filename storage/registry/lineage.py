"""Which model versions learned from whose votes, and which from votes that are now lost (erased, without
consent, of a deleted chat).

A model cannot unlearn: an affected version shows the number until a retrain from the base replaces it. Each
run stores the votes it learned from as its lineage. A version continued from another has that one's too.
"""

from collections.abc import Collection, Iterable
from itertools import islice

import sqlalchemy as sa
from sqlmodel import Session, col, select

from storage.db.tables import Chat, Message, ModelVersion, RunVote, TrainingRun, Vote, VoteEvent

ERASED = "erase"  # the action of an event whose content was erased
AT_ONCE = 500

Key = tuple[str, str]  # the ids of a reply and of the person who voted on it


def keep_lineage(session: Session, run_id: str, keys: Iterable[Key]) -> None:
    """Store which votes a run learns from, replacing those of an earlier attempt."""
    session.flush()
    session.execute(sa.delete(RunVote).where(col(RunVote.run_id) == run_id))
    for page in _pages(keys):
        rows = [{"message_id": message, "user_id": user, "run_id": run_id} for message, user in page]
        session.execute(sa.insert(RunVote), rows)


def versions_trained_on(session: Session, keys: Collection[Key]) -> dict[str, ModelVersion]:
    """The versions whose lineage contains any of these votes, by name."""
    key = sa.tuple_(col(RunVote.message_id), col(RunVote.user_id))
    runs: set[str] = set()
    for page in _pages(keys):
        runs.update(session.exec(select(RunVote.run_id).where(key.in_(page)).distinct()))
    if not runs:
        return {}
    found: dict[str, ModelVersion] = {}  # by id
    trained = select(ModelVersion, TrainingRun).select_from(ModelVersion).join(TrainingRun)
    # By number, so that each comes after the version it continued from.
    for version, run in session.exec(trained.order_by(col(ModelVersion.number))):
        if run.id in runs or _continued_from(run) in found:
            found[version.id] = version
    return {version.name: version for version in found.values()}


def mark_affected(session: Session, keys: Collection[Key]) -> list[str]:
    """Recount the lost votes of each version trained on these; returns the names of those with any."""
    affected = versions_trained_on(session, keys)
    for version in affected.values():
        count_lost(session, version)
    return [name for name, version in affected.items() if version.erased_votes]


def count_lost(session: Session, version: ModelVersion) -> None:
    """Set the version's `erased_votes` to the current count; also called when it is published."""
    runs = _runs_behind(session, version)
    session.flush()
    version.erased_votes = _count_lost(session, runs)


def learned_from(session: Session, version: ModelVersion, user_id: str) -> bool:
    """Whether the version learned from a vote of this person."""
    runs = _runs_behind(session, version)
    # From their votes, which are few, to the lineage.
    used = sa.exists().where(
        col(RunVote.message_id) == Vote.message_id,
        col(RunVote.user_id) == Vote.user_id,
        col(RunVote.run_id).in_(runs),
    )
    return (
        bool(runs) and session.exec(select(Vote.id).where(Vote.user_id == user_id, used)).first() is not None
    )


def _runs_behind(session: Session, version: ModelVersion) -> list[str]:
    """The runs that trained the version and those it continued from."""
    runs: list[str] = []
    ancestor: ModelVersion | None = version
    while ancestor is not None and ancestor.run_id is not None:
        run = session.get_one(TrainingRun, ancestor.run_id)
        runs.append(run.id)
        before = _continued_from(run)
        ancestor = session.get(ModelVersion, before) if before is not None else None
    return runs


def _continued_from(run: TrainingRun) -> str | None:
    """The id of the version whose adapter this run started from, if any."""
    found: str | None = (run.snapshot or {}).get("continued_from")
    return found


def _count_lost(session: Session, runs: Collection[str]) -> int:
    """How many distinct votes of these runs are erased, without consent, or of deleted chats."""
    votes = (col(RunVote.message_id), col(RunVote.user_id))
    erased = sa.exists().where(
        col(VoteEvent.message_id) == RunVote.message_id,
        col(VoteEvent.user_id) == RunVote.user_id,
        col(VoteEvent.action) == ERASED,
    )
    gone = (col(Message.state) == "erased") | col(Chat.consent).is_(False) | col(Chat.deleted_at).is_not(None)
    lost = sa.select(*votes).join_from(RunVote, Message).join(Chat).where(col(RunVote.run_id).in_(runs))
    query = lost.where(gone | erased).distinct().subquery()
    return int(session.execute(sa.select(sa.func.count()).select_from(query)).scalar_one())


def _pages(keys: Iterable[Key]) -> Iterable[list[Key]]:
    left = iter(keys)
    while page := list(islice(left, AT_ONCE)):
        yield page
