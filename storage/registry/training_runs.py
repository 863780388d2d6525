"""The queue of training runs: request, claim, heartbeat, release, finish, cancel.

A trainer holds a lease on its run, by the database's clock, and a fence: a number that grows with every
claim. Each of its writes names the fence, so a trainer presumed dead cannot overwrite its successor's work.
"""

from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, func, select

from storage.db.rows import AHEAD, database_now, get_row, newest_rows, next_id
from storage.db.tables import ScheduleTick, TrainingRun
from storage.errors import Conflict, LeaseLost

ACTIVE = ("requested", "running")
OVER = ("succeeded", "skipped", "failed", "cancelled")


def request_run(
    session: Session,
    *,
    trigger: str,
    requested_by: str | None = None,
    force: bool = False,
    fresh: bool = False,
    settings: dict[str, Any] | None = None,
) -> TrainingRun:
    """Queue a run; raises Conflict (code `run_active`) while another is requested or running.

    `fresh` starts from the base model, whatever the settings say: only that forgets erased votes.
    """
    run = TrainingRun(
        id=next_id(session, TrainingRun),
        trigger=trigger,
        requested_by=requested_by,
        force=force,
        settings=(settings or {}) | ({"training_mode": "fresh"} if fresh else {}),
    )
    try:
        with session.begin_nested():
            session.add(run)
            session.flush()
    except sa.exc.IntegrityError as error:
        active = active_run(session)
        if active is None:
            raise
        raise Conflict(
            f"The training run {active.id} is {active.state}; wait for it or cancel it.", code="run_active"
        ) from error
    return run


def get_run(session: Session, run_id: str) -> TrainingRun:
    return get_row(session, TrainingRun, run_id, "training run")


def list_runs(session: Session, limit: int = 20, before: str | None = None) -> list[TrainingRun]:
    """Newest first; `before` is the id of the last run on the previous page."""
    return newest_rows(session, TrainingRun, limit=limit, before=before)


def count_by_state(session: Session) -> dict[str, int]:
    """The number of runs in each state, zeros included."""
    rows = session.exec(select(TrainingRun.state, func.count()).group_by(col(TrainingRun.state)))
    return dict.fromkeys((*ACTIVE, *OVER), 0) | {state: number for state, number in rows}


def active_run(session: Session) -> TrainingRun | None:
    return session.exec(select(TrainingRun).where(col(TrainingRun.state).in_(ACTIVE))).first()


def last_trained_event_id(session: Session) -> int:
    """The largest snapshot of a successful run, 0 if there is none; votes after it are new."""
    query = select(sa.func.max(TrainingRun.snapshot_event_id)).where(TrainingRun.state == "succeeded")
    return session.exec(query).one() or 0


def claimable_run(session: Session) -> TrainingRun | None:
    """The run that waits for a trainer: requested, or running with an expired lease."""
    run = active_run(session)
    return run if run is not None and _claimable(run, database_now(session)) else None


def leased_run(session: Session) -> TrainingRun | None:
    """The run that a trainer works on: running, with a valid lease."""
    run = active_run(session)
    leased = run is not None and run.state == "running" and not _claimable(run, database_now(session))
    return run if leased else None


def claim_run(
    session: Session, run_id: str, *, owner: str, lease_seconds: float, max_attempts: int
) -> TrainingRun | None:
    """Claim the run; None if another trainer has it or it is over.

    Ends the run instead, and returns None, if it is to be cancelled or has had `max_attempts` attempts.
    """
    query = select(TrainingRun).where(TrainingRun.id == run_id).with_for_update(skip_locked=True)
    run = session.exec(query).first()
    moment = database_now(session)
    if run is None or not _claimable(run, moment):
        return None
    if run.cancel_requested:
        _end(session, run, "cancelled", "Cancelled.")
        return None
    if run.attempts >= max_attempts:
        died = f"The trainer died {run.attempts} times; its log says more."
        _end(session, run, "failed", f"{died} Fix that and ask for a new run.")
        return None
    run.state = "running"
    run.owner = owner
    run.fence += 1
    run.attempts += 1
    run.heartbeat_at = moment
    run.lease_until = moment + timedelta(seconds=lease_seconds)
    run.started_at = run.started_at or moment
    return run


def heartbeat(
    session: Session, run_id: str, fence: int, *, lease_seconds: float, progress: dict[str, Any] | None = None
) -> bool:
    """Renew the lease and report progress; True if somebody asked to cancel. Raises LeaseLost."""
    run = owned_run(session, run_id, fence)
    run.heartbeat_at = database_now(session)
    run.lease_until = run.heartbeat_at + timedelta(seconds=lease_seconds)
    if progress is not None:
        run.progress = progress
    return run.cancel_requested


def update_run(session: Session, run_id: str, fence: int, **columns: Any) -> TrainingRun:
    """Set columns such as snapshot, log_path or metrics; raises LeaseLost."""
    run = owned_run(session, run_id, fence)
    run.sqlmodel_update(columns)
    return run


def owned_run(session: Session, run_id: str, fence: int) -> TrainingRun:
    """The run, locked, if this fence still holds it; raises LeaseLost."""
    run = session.exec(select(TrainingRun).where(TrainingRun.id == run_id).with_for_update()).first()
    if run is None or run.state != "running" or run.fence != fence:
        found = "gone" if run is None else f"{run.state} with fence {run.fence}"
        raise LeaseLost(f"Training run {run_id} is {found}; this trainer's fence {fence} no longer holds it.")
    return run


def release_run(session: Session, run_id: str, fence: int, reason: str) -> None:
    """Give the run back unfinished, without counting the attempt, for another trainer; raises LeaseLost."""
    run = owned_run(session, run_id, fence)
    run.state = "requested"
    run.attempts -= 1
    run.lease_until = None
    run.owner = None
    run.reason = reason


def expire_lease(session: Session, run_id: str, owner: str) -> None:
    """End the lease of a trainer known to be dead, so that the next one need not wait."""
    run = get_run(session, run_id)
    if run.state == "running" and run.owner == owner:
        run.lease_until = database_now(session)


def finish_run(
    session: Session,
    run_id: str,
    fence: int,
    *,
    state: str,
    reason: str,
    metrics: dict[str, Any] | None = None,
) -> TrainingRun:
    """Close the run; raises LeaseLost."""
    assert state in OVER
    run = owned_run(session, run_id, fence)
    if metrics is not None:
        run.metrics = metrics
    return _end(session, run, state, reason)


def cancel_run(session: Session, run_id: str) -> TrainingRun:
    """Cancel a requested run at once; ask a running trainer to stop.

    Raises NotFound, or Conflict if the run is over.
    """
    get_run(session, run_id)
    run = session.exec(select(TrainingRun).where(TrainingRun.id == run_id).with_for_update()).one()
    if run.state in OVER:
        raise Conflict(f"The training run {run_id} is over ({run.state}); there is nothing to cancel.")
    run.cancel_requested = True
    if run.state == "requested":
        _end(session, run, "cancelled", "Cancelled before it began.")
    return run


def record_tick(
    session: Session, due_at: datetime, *, outcome: str, run_id: str | None = None
) -> ScheduleTick | None:
    """Record that the schedule fired; None if another scheduler was first."""
    tick = ScheduleTick(due_at=due_at, outcome=outcome, run_id=run_id)
    try:
        with session.begin_nested():
            session.add(tick)
            session.flush()
    except sa.exc.IntegrityError:
        return None
    return tick


def last_tick(session: Session) -> ScheduleTick | None:
    return session.exec(select(ScheduleTick).order_by(col(ScheduleTick.due_at).desc())).first()


def _claimable(run: TrainingRun, moment: datetime) -> bool:
    if run.state == "running":
        # A heartbeat in the future was sent before the database's clock was set back: the lease would last
        # for as long as that.
        beat, until = run.heartbeat_at or moment, run.lease_until or moment
        return not (beat <= moment + AHEAD and moment < until)
    return run.state == "requested"


def _end(session: Session, run: TrainingRun, state: str, reason: str) -> TrainingRun:
    run.state = state
    run.reason = reason
    run.finished_at = database_now(session)
    run.lease_until = None
    return run
