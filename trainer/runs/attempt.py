"""One attempt at a run: claims it, holds its lease, writes its log, and records how it ended."""

import logging
import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from sqlalchemy.exc import OperationalError

from storage.db.database import Database
from storage.db.tables import TrainingRun
from storage.errors import LeaseLost, StoreUnavailable, ThumbloopError
from storage.registry import training_runs
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings
from trainer.errors import Diverged, Interrupted, OutOfMemory, ProcessLost
from trainer.model.host_limits import is_full
from trainer.runs.lease import Lease
from trainer.runs.run import Outcome, RunSteps
from trainer.taste.sampled_rows import SAMPLED_FILE

log = logging.getLogger(__name__)

# Exit codes. RELEASED is EX_TEMPFAIL: the run waits for its next trainer, as after a lost process.
DONE, FAILED, NOT_OURS, RELEASED = 0, 1, 3, 75


def attempt_run(
    database: Database, settings: Settings, run_id: str, *, owner: str, print_log: bool = False
) -> int:
    """Claim the run and carry it out; returns the exit code. Raises NotFound.

    Its log goes to a file of the run, or is printed where the server puts it there.
    """
    with database.write() as session:
        training_runs.get_run(session, run_id)
        run = training_runs.claim_run(
            session,
            run_id,
            owner=owner,
            lease_seconds=settings.lease_seconds,
            max_attempts=settings.max_attempts,
        )
        if run is not None:
            run.log_path = f"runs/{run.id}/train.log"
    if run is None:
        log.info("Run %s is over, or another trainer has it.", run_id)
        return NOT_OURS
    artifacts = Artifacts(settings.data_dir)
    folder = artifacts.run_folder(run_id)
    log_file = None if print_log else folder / "train.log"
    with _log_to(log_file), Lease(database, run, lease_seconds=settings.lease_seconds) as lease:
        log.info("Run %s, attempt %d, asked for by the %s.", run.id, run.attempts, run.trigger)
        try:
            outcome = _outcome(database, settings, artifacts, run, lease)
            lease.close()
            _finish(database, lease, outcome)
        except Interrupted as interrupted:
            return NOT_OURS if interrupted.why == "lost" else _release(database, lease)
        except (ProcessLost, StoreUnavailable) as lost:
            # End as if this trainer had died too: the attempt counts, and the next one resumes the run.
            lease.close()
            log.error("%s The next trainer resumes the run there.", lost)
            with database.write() as session:
                training_runs.expire_lease(session, run_id, owner)
            return RELEASED
        except OperationalError as error:
            # Nothing can be written now. The dispatcher ends the lease, or it runs out.
            lease.close()
            log.error("The database does not answer (%s). The next trainer resumes the run.", error.orig)
            return RELEASED
        except LeaseLost as lost_lease:
            log.error("%s Stopping.", lost_lease.message)
            return NOT_OURS
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        (folder / SAMPLED_FILE).unlink(missing_ok=True)
        open_artifacts(settings, database).end_run(run_id)
        return FAILED if outcome.state == "failed" else DONE


def _outcome(
    database: Database, settings: Settings, artifacts: Artifacts, run: TrainingRun, lease: Lease
) -> Outcome:
    """Carry out the run; an error becomes a failed run, unless another attempt goes on with it."""
    try:
        return RunSteps(database, settings, artifacts, run, lease).carry_out()
    except Interrupted as interrupted:
        if interrupted.why != "cancelled":
            raise
        return Outcome("cancelled", "Cancelled while it was running.", {})
    except (LeaseLost, ProcessLost, StoreUnavailable, OperationalError):
        raise
    except (ThumbloopError, Diverged, OutOfMemory) as error:
        return Outcome("failed", str(error), {})
    except (MemoryError, torch.OutOfMemoryError):
        log.exception("Out of memory")
        reason = (
            f"The training ran out of memory; lower THUMBLOOP_MAX_LENGTH={settings.max_length} or "
            f"THUMBLOOP_BATCH_SIZE={settings.batch_size}."
        )
    except Exception as error:
        log.exception("The run failed")
        reason = f"{type(error).__name__}: {error}. The run's log says where."
        if is_full(error):
            reason = f"{settings.data_dir} has no room left ({error}); free some and train again."
    return Outcome("failed", reason, {})


def _finish(database: Database, lease: Lease, outcome: Outcome) -> None:
    log.log(
        logging.ERROR if outcome.state == "failed" else logging.INFO,
        *("%s: %s", outcome.state.capitalize(), outcome.reason),
    )
    steps = outcome.metrics.get("training", {}).get("steps")
    progress = lease.kept | {"phase": outcome.state} | ({"step": steps, "steps": steps} if steps else {})
    with database.write() as session:
        training_runs.update_run(session, lease.run_id, lease.fence, progress=progress)
        training_runs.finish_run(
            session,
            lease.run_id,
            lease.fence,
            state=outcome.state,
            reason=outcome.reason,
            metrics=outcome.metrics,
        )


def _release(database: Database, lease: Lease) -> int:
    lease.close()
    reason = "Its trainer was stopped; the next one resumes the run where it was."
    try:
        with database.write() as session:
            training_runs.release_run(session, lease.run_id, lease.fence, reason)
    except LeaseLost as lost:
        log.error("%s Stopping.", lost.message)
        return NOT_OURS
    log.info("Stopped as asked; the run is released and will be resumed.")
    return RELEASED


@contextmanager
def _log_to(file: Path | None) -> Iterator[None]:
    handler = logging.FileHandler(file, encoding="utf-8") if file else logging.StreamHandler(sys.stdout)
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    root = logging.getLogger()
    root.addHandler(handler)
    try:
        yield
    finally:
        root.removeHandler(handler)
        handler.close()
