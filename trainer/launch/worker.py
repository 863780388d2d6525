"""A worker process of a training: it trains its share of micro-batches for the leader.

The leader gives it its job and ends it. It reports, publishes and decides nothing. Knows no database.
"""

import contextlib
import logging
import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list

from trainer.errors import Interrupted
from trainer.launch.environment import prepare_process

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from storage.examples.weights import Weights
    from storage.settings import Settings
    from trainer.adapters.parent import ParentAdapter
    from trainer.dataset.tokenise import TokenisedExample
    from trainer.engine.kto import TrainingResult
    from trainer.engine.prefix.reference_cache import ReferenceCache
    from trainer.model.base_model import BaseModelSource

READY = "ready"


@dataclass(frozen=True)
class Job:
    """What each process needs for a training; see `kto.train`."""

    source: "BaseModelSource"
    start: "ParentAdapter | None"
    settings: "Settings"
    rows: "Sequence[TokenisedExample]"
    weights: "Weights"
    output_dir: Path
    resume: bool
    references: "ReferenceCache | None"

    def train(
        self,
        model: Any,
        tokenizer: Any,
        *,
        progress: "Callable[[dict[str, Any]], None]" = lambda _state: None,
        check: "Callable[[], None]" = lambda: None,
    ) -> "tuple[Any, TrainingResult]":
        """Run `kto.train` in this process."""
        from trainer.engine import kto

        return kto.train(
            model,
            tokenizer,
            self.rows,
            weights=self.weights,
            settings=self.settings,
            output_dir=self.output_dir,
            resume=self.resume,
            references=self.references,
            progress=progress,
            check=check,
        )


@dataclass(frozen=True)
class Failure:
    """Why a follower failed before its training ended."""

    out_of_memory: bool
    told: str


@dataclass(frozen=True)
class Meeting:
    """How the processes of one machine find each other: through a file, so that no port is open.

    `gpus` has one entry per process, or none. Each follower has a line to the leader. On it the follower
    sends READY, first before joining and again before training, or a Failure. At the end it waits there for
    leave to exit.
    """

    file: Path
    processes: int
    gpus: tuple[str, ...]
    lines: tuple[Connection, ...]

    def attend(self, rank: int) -> None:
        """Wait for the others; afterwards torch and accelerate have a process group."""
        PartialState(
            cpu=not self.gpus,
            init_method=f"file://{self.file}",
            rank=rank,
            world_size=self.processes,
        )


def follow(index: int, meeting: Meeting) -> None:
    """Run a follower that the leader started; the first one has index 0."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to the whole session; the leader decides what is saved
    threading.Thread(target=_end_with_leader, name="end with leader", daemon=True).start()
    rank = index + 1
    os.environ["RANK"] = str(rank)
    if meeting.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = meeting.gpus[rank]
    else:
        os.environ["LOCAL_RANK"] = str(rank)
    prepare_process()
    logging.basicConfig(format=f"Process {rank + 1}: %(message)s", level=logging.WARNING)

    from trainer.engine import kto  # noqa: F401  Takes seconds; the leader must not wait in a collective.
    from trainer.engine.estimates import is_out_of_memory

    line = meeting.lines[index]
    try:
        line.send(READY)
        meeting.attend(rank)
        train_along(loaded=partial(line.send, READY))
        line.recv()  # the leader may still be reading the last message
    except BaseException as error:
        line.send(Failure(is_out_of_memory(error), f"{type(error).__name__}: {error}"))
        raise


def train_along(loaded: "Callable[[], None]" = lambda: None) -> None:
    """Do this process's part of the leader's job, if there is one. The process group must exist."""
    from trainer.adapters.tuning_modes import load_for_training

    (job,) = broadcast_object_list([None])
    if job is None:
        return
    model, tokenizer = load_for_training(job.source, job.settings)
    if job.start is not None:
        model = job.start.load_into(model)
    loaded()
    with contextlib.suppress(Interrupted):  # the leader stops for the same reason and reports it
        job.train(model, tokenizer)


def follow_launched() -> None:
    """Run a follower that torchrun or accelerate launch started: it waits for the leader's job."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the launcher sends them to every process
    PartialState(cpu=not torch.cuda.is_available())
    train_along()
    torch.distributed.destroy_process_group()  # otherwise its threads sometimes abort this process at exit


def _end_with_leader() -> None:
    leader = multiprocessing.parent_process()
    assert leader is not None
    leader.join()
    os._exit(1)  # the main thread may be stuck in a collective
