"""Starts and supervises training with several processes, from the one that leads them.

The leader is the process that holds the run: only it has the lease, the folder and the result. It starts the
others for the duration of the training, unless torchrun or accelerate launch has started them. Knows no
database.
"""

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Self

import torch
from accelerate import PartialState
from accelerate.state import AcceleratorState
from accelerate.utils import broadcast_object_list, patch_environment
from torch.multiprocessing.spawn import start_processes

from storage.errors import BadSetting
from trainer.engine import kto
from trainer.engine.callbacks import Progress
from trainer.errors import ProcessLost
from trainer.launch.environment import gpus
from trainer.launch.worker import READY, Failure, Job, Meeting, follow
from trainer.model.fsdp import refuse_other_ways

log = logging.getLogger(__name__)

# Exit code of a leader that is stuck after losing a process; EX_TEMPFAIL, as for a released run.
LOST = 75
POLL_SECONDS = 0.2
# Seconds for a lost process to be noticed, by a failed collective or a check. After that the leader exits.
NOTICED_WITHIN = 10.0


def launched() -> bool:
    """Whether torchrun or accelerate launch started several processes, including this one."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def how_many(wanted: int, device: torch.device) -> int:
    """How many processes to train with: those already launched, otherwise `wanted`; 0 means one per GPU.

    On a GPU machine there is at most one process per GPU. Raises BadSetting.
    """
    processes = int(os.environ["WORLD_SIZE"]) if launched() else 1
    refuse_other_ways(processes)
    if launched():
        if int(os.environ.get("LOCAL_WORLD_SIZE", processes)) != processes:
            raise BadSetting(
                "The processes that were started together are on several machines; training takes those of "
                "one, because its files are there.",
                field="training_processes",
            )
        return processes
    if device.type != "cuda":
        return wanted or 1
    if wanted > len(gpus()):
        log.warning(
            "THUMBLOOP_TRAINING_PROCESSES=%d, but each process needs a GPU: training with %d.",
            *(wanted, len(gpus())),
        )
    return min(wanted or len(gpus()), len(gpus()))


def train(
    job: Job,
    model: Any,
    tokenizer: Any,
    *,
    processes: int,
    progress: Progress = lambda _state: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[Any, kto.TrainingResult]:
    """Run `kto.train` in this many processes; this one has loaded the model and leads.

    Raises what `kto.train` raises, ProcessLost, MemoryError if another process ran out of memory, and
    RuntimeError with the reason if another process failed otherwise. Afterwards this process is on its own
    again.
    """

    def lead(check: Callable[[], None]) -> tuple[Any, kto.TrainingResult]:
        return job.train(model, tokenizer, progress=progress, check=check)

    if launched():
        if processes != int(os.environ["WORLD_SIZE"]):
            raise BadSetting(
                f"{os.environ['WORLD_SIZE']} processes were started, and there are micro-batches for "
                f"{processes} only; start no more, or lower THUMBLOOP_BATCH_SIZE={job.settings.batch_size}.",
                field="training_processes",
            )
        PartialState(cpu=job.source.device.type == "cpu")
        broadcast_object_list([job])
        with _told_by_launcher(check, processes):
            return lead(check)
    if processes == 1:
        return lead(check)
    with _grouped(processes), _Followers(processes, job.source.device) as followers:
        followers.wait_until_ready(check)
        try:
            followers.meeting.attend(0)
            broadcast_object_list([job])
            followers.wait_until_ready(
                check
            )  # not in a collective, where nobody calls `check`, while they load
            return lead(lambda: followers.check(check))
        except RuntimeError as error:  # collectives raise this when another process is gone
            followers.check(check, patience=NOTICED_WITHIN * (3 if _of_other(error) else 0.5))
            raise


def dismiss_launched() -> None:
    """Release processes launched together with this one. Those that still wait get no job."""
    if launched() and not torch.distributed.is_initialized():
        PartialState(cpu=not torch.cuda.is_available())
        broadcast_object_list([None])
    if launched():
        torch.distributed.destroy_process_group()  # threads that outlive the group abort the process at exit


def _of_other(error: RuntimeError) -> bool:
    """Whether a collective failed, as it does when another process is gone, perhaps still exiting."""
    return isinstance(error, torch.distributed.DistError) or "gloo" in str(error)


@contextmanager
def _told_by_launcher(check: Callable[[], None], processes: int) -> Iterator[None]:
    """Raise ProcessLost after a failed collective, but first give the launcher time to end this process."""
    try:
        yield
    except RuntimeError as error:
        if not _of_other(error):
            raise
        waited_until = time.monotonic() + NOTICED_WITHIN
        while time.monotonic() < waited_until:
            check()
            time.sleep(POLL_SECONDS)
        raise ProcessLost(
            f"One of the {processes} processes ended before the training did; what was trained up to the "
            f"newest checkpoint is kept."
        ) from error


@contextmanager
def _grouped(processes: int) -> Iterator[None]:
    """Make this process the first of several on this machine, with its share of the cores."""
    threads = torch.get_num_threads()
    share = max(1, threads // processes)
    environment = {
        **{"RANK": 0, "LOCAL_RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes},
        **{"OMP_NUM_THREADS": share, "GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"},
    }
    AcceleratorState._reset_state(reset_partial_state=True)
    with patch_environment(**environment):
        torch.set_num_threads(share)
        try:
            yield
        finally:
            if torch.distributed.is_initialized():
                torch.distributed.destroy_process_group()
            AcceleratorState._reset_state(reset_partial_state=True)
            torch.set_num_threads(threads)


class _Followers:
    """The other processes of a training, as a context manager; when it closes they are gone."""

    def __init__(self, processes: int, device: torch.device) -> None:
        self._folder = TemporaryDirectory(prefix="thumbloop-")
        self._lines, theirs = zip(*(Pipe() for _ in range(processes - 1)), strict=True)
        self.meeting = Meeting(
            Path(self._folder.name) / "meeting", processes, gpus() if device.type == "cuda" else (), theirs
        )
        self._failures: dict[Connection, Failure] = {}
        self._over = threading.Event()

    def __enter__(self) -> Self:
        started: Any = start_processes(  # type: ignore[no-untyped-call]
            follow, (self.meeting,), nprocs=len(self._lines), join=False, daemon=True, start_method="spawn"
        )
        self._processes = started.processes
        self._sentinels = [process.sentinel for process in self._processes]
        self._guard = threading.Thread(target=self._end_if_unnoticed, name="followers", daemon=True)
        self._guard.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        for line, process in zip(self._lines, self._processes, strict=True):
            if kind is None:
                line.send(None)
                process.join(timeout=NOTICED_WITHIN)
            process.kill()  # its results are here already or no longer wanted
            process.join()
        self._guard.join()
        self._folder.cleanup()

    def wait_until_ready(self, check: Callable[[], None]) -> None:
        """Wait until each follower has sent READY once more. Raises what `check` raises."""
        waiting = set(self._lines)
        while waiting:
            wait(waiting, timeout=POLL_SECONDS)
            waiting -= {line for line in waiting if self._hear(line) == READY}
            self.check(check)

    def check(self, check: Callable[[], None], patience: float = 0.0) -> None:
        """Raise if the work must stop, first what `check` raises; waits `patience` seconds for an exit."""
        ended = wait(self._sentinels, timeout=patience)
        check()
        if ended:
            raise self._reason()

    def _reason(self) -> Exception:
        """Why a follower ended. A killed process makes others fail, so it is reported first."""
        of_all = f"of {self.meeting.processes}"
        for number, process in enumerate(self._processes, start=2):
            if wait([process.sentinel], timeout=0):
                process.join(NOTICED_WITHIN)  # the sentinel fires a moment before the exit code is set
            if process.exitcode is not None and process.exitcode < 0:
                return ProcessLost(
                    f"Process {number} {of_all} was ended by {signal.Signals(-process.exitcode).name} in "
                    f"mid-training; what was trained up to the newest checkpoint is kept."
                )
        for number, line in enumerate(self._lines, start=2):
            while self._hear(line) is not None:
                pass
            if (failure := self._failures.get(line)) is not None:
                kind = MemoryError if failure.out_of_memory else RuntimeError
                return kind(f"Process {number} {of_all} failed: {failure.told}")
        return RuntimeError(f"One {of_all} processes ended before the training did; its output says why.")

    def _hear(self, line: Connection) -> object:
        """The next unread message of a follower, or None."""
        said = line.recv() if line.poll() else None
        if isinstance(said, Failure):
            self._failures[line] = said
        return said

    def _end_if_unnoticed(self) -> None:
        """Exit if a lost process goes unnoticed: some collectives wait many minutes for it."""
        while not self._over.wait(POLL_SECONDS):
            if wait(self._sentinels, timeout=0):
                if not self._over.wait(NOTICED_WITHIN):
                    log.error("%s This process waits for it in vain and ends too.", self._reason())
                    os._exit(LOST)
                return
