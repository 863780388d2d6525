"""Starts and supervises training with several processes. Knows no database.

The supervisor is the process that holds the run: it has the lease, the folder and the result, and no model.
torch's elastic agent starts the workers and detects the first one that fails. If torchrun or accelerate
launch has started the processes, the first of them holds the run and trains, too.
"""

import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing import Pipe, set_forkserver_preload
from multiprocessing.connection import wait
from tempfile import NamedTemporaryFile, TemporaryDirectory
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object
from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from storage.errors import BadSetting
from trainer.engine.callbacks import Progress
from trainer.engine.kto import TrainingResult
from trainer.errors import Interrupted, ProcessLost
from trainer.launch.environment import gpus
from trainer.launch.worker import Job, is_of_another, leave_group, work
from trainer.model.fsdp import refuse_other_ways

log = logging.getLogger(__name__)

POLL_SECONDS = 0.1
KEPT = "what was trained up to the newest checkpoint is kept."
# Seconds for torchrun or accelerate launch to end this process after another one was lost.
NOTICED_WITHIN = 10.0


def launched() -> int:
    """How many processes torchrun or accelerate launch started together, or 0 if this one is alone."""
    together = int(os.environ.get("WORLD_SIZE", "1"))
    return together if together > 1 else 0


def how_many(wanted: int, device: torch.device) -> int:
    """How many processes to train with: those already launched, otherwise `wanted`; 0 means one per GPU.

    On a GPU machine there is at most one process per GPU. Raises BadSetting.
    """
    refuse_other_ways(launched() or 1)
    if processes := launched():
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
    *,
    processes: int,
    progress: Progress = lambda _state: None,
    check: Callable[[], None] = lambda: None,
) -> TrainingResult:
    """Do the job in this many processes; a single one is this process.

    Raises what `Job.train` raises in any process, MemoryError if one ran out of memory, and ProcessLost.
    """
    if together := launched():
        if processes != together:
            raise BadSetting(
                f"{together} processes were started, and there are micro-batches for "
                f"{processes} only; start no more, or lower THUMBLOOP_BATCH_SIZE={job.settings.batch_size}.",
                field="training_processes",
            )
        if int(os.environ.get("LOCAL_WORLD_SIZE", together)) != together:
            job = replace(job, references=None)  # SQLite's locks may not hold between machines
        with _ended_by_launcher(check, processes):
            PartialState(cpu=job.source.device.type == "cpu")
            _hand_out(job)
            return job.train(progress=progress, check=check)
    if processes == 1:
        return job.train(progress=progress, check=check)
    return _supervise(job, processes, progress, check)


def dismiss_launched() -> None:
    """Release processes launched together with this one. Those that still wait get no job."""
    if launched() and not torch.distributed.is_initialized():
        PartialState(cpu=not torch.cuda.is_available())
        broadcast_object_list([None, ""])
    leave_group()


def _hand_out(job: Job) -> None:
    """Give the job to the processes launched with this one. Raises BadSetting if one lacks its files."""
    folder = job.output_dir.parent
    with NamedTemporaryFile(dir=folder, prefix="seen-by-all-") as file:
        broadcast_object_list([job, file.name])
        seen = gather_object([True])
    if not all(seen):
        raise BadSetting(
            f"Process {seen.index(False) + 1} of {len(seen)} does not see {folder}. Processes on several "
            f"machines need THUMBLOOP_DATA_DIR on a file system that all of them share.",
            field="data_dir",
        )


@contextmanager
def _ended_by_launcher(check: Callable[[], None], processes: int) -> Iterator[None]:
    """Raise ProcessLost after a failed collective, but first give the launcher time to end this process."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_another(error):
            raise
        waited_until = time.monotonic() + NOTICED_WITHIN
        while time.monotonic() < waited_until:
            check()
            time.sleep(POLL_SECONDS)
        lost = f"One of the {processes} processes ended before the training did; {KEPT}"
        raise ProcessLost(lost) from error


def _supervise(job: Job, processes: int, progress: Progress, check: Callable[[], None]) -> TrainingResult:
    """Train in workers of an elastic agent, which find each other through files in a private folder."""
    quiet = logging.getLogger("torch.distributed.elastic")  # failures are reported here
    quiet.addHandler(logging.NullHandler())
    quiet.propagate = False
    # Otherwise the agent opens a TCP store for the workers, on every network interface.
    os.environ["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
    devices = gpus() if job.source.device.type == "cuda" else ()
    # One import of torch and the trainer serves all workers, which are forked afterwards.
    set_forkserver_preload(["trainer.launch.preload"])
    lines, theirs = zip(*(Pipe() for _ in range(processes)), strict=True)
    with TemporaryDirectory(prefix="thumbloop-") as folder, ThreadPoolExecutor(1) as executor:
        config = LaunchConfig(
            *(1, 1, processes),
            run_id="training",
            rdzv_backend="c10d",
            rdzv_endpoint=f"{folder}/rendezvous",
            rdzv_configs={"store_type": "file"},
            max_restarts=0,
            start_method="forkserver",
            local_addr="127.0.0.1",
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        agent = executor.submit(elastic_launch(config, work), job, f"{folder}/store", devices, theirs)
        failures: list[Exception] = []
        try:
            _relay(agent, lines, failures, progress, check)
            result: TrainingResult | Interrupted = agent.result()[0]
        except ChildFailedError as error:
            check()
            rank, failure = error.get_first_failure()
            name = f"Process {rank + 1} of {processes}"
            if failure.exitcode < 0:
                by = failure.signal_name()
                raise ProcessLost(f"{name} was ended by {by} in mid-training; {KEPT}") from None
            silent = RuntimeError(f"{name} ended before the training did; its output says why.")
            raise next(iter(failures), silent) from None
        except EOFError:
            check()
            lost = f"The workers could not be started: the process that forks them was ended; {KEPT}"
            raise ProcessLost(lost) from None
        finally:
            for line in lines:
                line.close()  # workers that still run end with their line
    if isinstance(result, Interrupted):
        raise result
    return result


def _relay(
    agent: Future[dict[int, Any]],
    lines: Sequence[Any],
    failures: list[Exception],
    progress: Progress,
    check: Callable[[], None],
) -> None:
    """Pass on what the workers send until the agent is done. Raises what `check` raises.

    If a running training is terminated, the workers first finish and save their step.
    """
    training = stopping = False
    while (heard := wait(lines, POLL_SECONDS)) or not agent.done():
        for line in heard:
            message: Any = line.recv()  # type: ignore[union-attr, call-arg]
            match message:
                case logging.LogRecord() as record:
                    logging.getLogger(record.name).handle(record)
                case Exception() as error:
                    failures.append(error)
                case state:
                    training = True
                    progress(state)
        try:
            if not stopping:
                check()
        except Interrupted as interrupted:
            if interrupted.why != "terminated" or not training:
                raise
            stopping = True
            lines[0].send("stop")
