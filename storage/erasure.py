"""Removing a person's data, and data that is too old: text and votes go, tombstones stay.

Rows keep their ids, so that lineage stays readable; what was in them is gone. An erased vote counts in
no snapshot, whatever its id. A model that was trained on it still remembers: each such version is
marked, and only a retrain from the base model, without those votes, forgets.
"""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage import audit
from storage.errors import Conflict
from storage.tables import ApiToken, Chat, Message, ModelVersion, TrainingRun, Vote, VoteEvent, now
from storage.users import get_user
from storage.votes import take_turn

EXPORTS = "exports"
ERASED = "erase"  # the action of an erased vote event
ERASED_MESSAGE = "erased"  # the state of an erased message


@dataclass
class ErasureReport:
    """What was removed, and the names of the versions that were trained on some of it."""

    chats: int = 0
    messages: int = 0
    votes: int = 0
    affected_versions: list[str] = field(default_factory=list)

    def add(self, other: "ErasureReport") -> None:
        """Count what another erasure removed, too."""
        self.chats += other.chats
        self.messages += other.messages
        self.votes += other.votes
        new = [name for name in other.affected_versions if name not in self.affected_versions]
        self.affected_versions.extend(new)


def erase_user(session: Session, user_id: str, *, by: str) -> ErasureReport:
    """Erase a person: their account's name and secrets, chats, messages and votes.

    Raises NotFound, or Conflict where a person is the last admin or was erased already.
    """
    user = get_user(session, user_id)
    if user.erased_at is not None:
        raise Conflict(f"The user {user_id} was erased on {user.erased_at:%Y-%m-%d} already.")
    if user.role == "admin":
        raise Conflict(f"{user.name!r} is an admin; make them a user first (`thumbloop user role`).")
    chats = list(session.exec(select(Chat.id).where(Chat.owner_id == user_id)))
    report = _erase_chats(session, chats)
    report.votes += _erase_votes(
        session, col(Vote.user_id) == user_id, col(VoteEvent.user_id) == user_id, report
    )
    session.execute(sa.delete(ApiToken).where(col(ApiToken.user_id) == user_id))
    user.name, user.password_hash, user.disabled, user.erased_at = None, None, True, now()
    session.add(user)
    _record(session, by, "erase_user", user_id, report)
    return report


def erase_before(session: Session, moment: datetime, *, by: str, limit: int | None = None) -> ErasureReport:
    """Retention: erase the chats that nobody has written in since `moment`, at most `limit` of them.

    Chats that their owners deleted are among them: until then their text is only hidden. Where there is
    nothing to erase nothing is audited.
    """
    old = select(Chat.id).where(_forgettable(moment)).order_by(col(Chat.id)).limit(limit)
    # Two servers may do this at once: the second one leaves out what the first has locked.
    chats = list(session.exec(old.with_for_update(skip_locked=True)))
    if not chats:
        return ErasureReport()
    report = _erase_chats(session, chats)
    _record(session, by, "erase_before", moment.isoformat(), report)
    return report


def count_before(session: Session, moment: datetime) -> ErasureReport:
    """What `erase_before` would remove; which versions that affects is not counted."""
    in_chats = select(Message.id).where(col(Message.chat_id).in_(select(Chat.id).where(_forgettable(moment))))
    return ErasureReport(
        chats=session.exec(select(func.count()).select_from(Chat).where(_forgettable(moment))).one(),
        messages=session.exec(select(func.count()).where(col(Message.id).in_(in_chats))).one(),
        votes=session.exec(select(func.count()).where(col(Vote.message_id).in_(in_chats))).one(),
    )


def remove_exports(data_dir: Path) -> bool:
    """Remove the exports that lie in the data directory: they are copies of what was erased."""
    folder = data_dir / EXPORTS
    existed = folder.exists()
    shutil.rmtree(folder, ignore_errors=True)
    return existed


def _forgettable(moment: datetime) -> sa.ColumnElement[bool]:
    """Old chats with anything left in them: text, a title, a system prompt."""
    written = sa.exists().where(col(Message.chat_id) == Chat.id, col(Message.state) != ERASED_MESSAGE)
    said = (col(Chat.title) != "") | (col(Chat.system_prompt) != "")
    return (col(Chat.updated_at) < moment) & (col(Chat.deleted_at).is_(None) | said | written)


def _erase_chats(session: Session, chats: Sequence[str]) -> ErasureReport:
    report = ErasureReport(chats=len(chats))
    in_chats = select(Message.id).where(col(Message.chat_id).in_(chats))
    report.votes = _erase_votes(
        session, col(Vote.message_id).in_(in_chats), col(VoteEvent.message_id).in_(in_chats), report
    )
    blank = {"content": "", "token_ids": None, "sampling": None, "state": ERASED_MESSAGE}
    erased = session.execute(sa.update(Message).where(col(Message.chat_id).in_(chats)).values(blank))
    report.messages = erased.rowcount  # type: ignore[attr-defined]
    hide = {"title": "", "system_prompt": "", "import_key": None, "deleted_at": now()}
    session.execute(sa.update(Chat).where(col(Chat.id).in_(chats)).values(hide))
    return report


def _erase_votes(
    session: Session, votes: sa.ColumnElement[bool], events: sa.ColumnElement[bool], report: ErasureReport
) -> int:
    take_turn(session)
    events &= col(VoteEvent.action) != ERASED
    keys = {
        (message, user)
        for message, user in session.exec(select(VoteEvent.message_id, VoteEvent.user_id).where(events))
    }
    _mark_versions(session, keys, report)
    blank: dict[str, object] = {"label": None, "tags": [], "comment": None, "correction": None}
    session.execute(sa.delete(Vote).where(votes))
    session.execute(sa.update(VoteEvent).where(events).values(blank | {"action": ERASED}))
    return len(keys)


def _mark_versions(session: Session, keys: set[tuple[str, str]], report: ErasureReport) -> None:
    if not keys:
        return
    lineage = session.exec(
        select(ModelVersion, TrainingRun).join(TrainingRun, col(TrainingRun.id) == ModelVersion.run_id)
    )
    for version, run in lineage:
        used = sum((message, user) in keys for message, user in (run.snapshot or {}).get("votes", []))
        if used:
            version.erased_votes += used
            session.add(version)
            if version.name not in report.affected_versions:
                report.affected_versions.append(version.name)
    session.flush()


def _record(session: Session, by: str, action: str, target: str, report: ErasureReport) -> None:
    audit.record(
        session,
        by,
        action,
        target,
        chats=report.chats,
        messages=report.messages,
        votes=report.votes,
        affected_versions=report.affected_versions,
    )
    session.flush()
