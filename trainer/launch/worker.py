"""A process that trains along with another one, the leader, from which it gets its job and its end.

It takes every so many-th micro-batch, and reports, publishes and decides nothing. Knows no database.
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
    """What each process needs to know of a training; see `kto.train`."""

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
        """`kto.train` of this process."""
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
    """Why a follower ended before its training did."""

    out_of_memory: bool
    told: str


@dataclass(frozen=True)
class Meeting:
    """How the processes of one machine find each other: by a file, so that no port is open to others.

    `gpus` has one for each process, or none. On its line each follower says that it is ready, at first to
    meet and then to train, or why it failed, and waits at the end for leave to go.
    """

    file: Path
    processes: int
    gpus: tuple[str, ...]
    lines: tuple[Connection, ...]

    def attend(self, rank: int) -> None:
        """Wait for the others; from then on torch and accelerate know them."""
        PartialState(
            cpu=not self.gpus,
            init_method=f"file://{self.file}",
            rank=rank,
            world_size=self.processes,
        )


def follow(index: int, meeting: Meeting) -> None:
    """The whole life of a follower that the leader started, the first of them with index 0."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # sent to all of a session: the leader decides what is kept
    threading.Thread(target=_end_with_leader, name="end with leader", daemon=True).start()
    rank = index + 1
    os.environ["RANK"] = str(rank)
    if meeting.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = meeting.gpus[rank]
    else:
        os.environ["LOCAL_RANK"] = str(rank)
    prepare_process()
    logging.basicConfig(format=f"Process {rank + 1}: %(message)s", level=logging.WARNING)

    from trainer.engine import kto  # noqa: F401  Takes seconds, in which the leader must not wait for a collective.
    from trainer.engine.memory_estimate import is_out_of_memory

    line = meeting.lines[index]
    try:
        line.send(READY)
        meeting.attend(rank)
        train_along(loaded=partial(line.send, READY))
        line.recv()  # the leader's leave to go: it may still be reading what this process sent last
    except BaseException as error:
        line.send(Failure(is_out_of_memory(error), f"{type(error).__name__}: {error}"))
        raise


def train_along(loaded: "Callable[[], None]" = lambda: None) -> None:
    """Do this process's part of the leader's job, if there is one; the processes have met."""
    from trainer.adapters.tuning_modes import load_for_training

    (job,) = broadcast_object_list([None])
    if job is None:
        return
    model, tokenizer = load_for_training(job.source, job.settings)
    if job.start is not None:
        model = job.start.load_into(model)
    loaded()
    with contextlib.suppress(Interrupted):  # the leader stops for the same reason, and says so
        job.train(model, tokenizer)


def follow_launched() -> None:
    """A follower that torchrun or accelerate launch started: it waits for the leader's job."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # the launcher sends them to all
    PartialState(cpu=not torch.cuda.is_available())
    train_along()
    torch.distributed.destroy_process_group()  # its threads would abort this process now and then, at its end


def _end_with_leader() -> None:
    leader = multiprocessing.parent_process()
    assert leader is not None
    leader.join()
    os._exit(1)  # the main thread may wait in a collective that never ends
