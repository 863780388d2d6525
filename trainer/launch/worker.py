"""A worker: one of the processes that train together. Knows no database."""

import contextlib
import logging
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from logging.handlers import QueueHandler
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object

from storage.examples.weights import Weights
from storage.settings import Settings
from trainer.adapters.parent import ParentAdapter
from trainer.adapters.tuning_modes import load_for_training
from trainer.dataset.tokenise import TokenisedExample
from trainer.engine import kto
from trainer.engine.callbacks import Progress
from trainer.engine.estimates import expected_seconds, is_out_of_memory
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.select import settle_engine
from trainer.errors import Interrupted
from trainer.launch.environment import prepare_process
from trainer.model.base_model import BaseModelSource
from trainer.text import spoken

log = logging.getLogger(__name__)

SIGNALS = signal.SIGINT, signal.SIGTERM, signal.SIGUSR2
# The elastic agent looks at its workers ten times a second and reports the first one that has ended.
AGENT_NOTICES_WITHIN = 1.0


@dataclass(frozen=True)
class Job:
    """What each process needs for a training; see `kto.train`. `adapter` is the folder for the result."""

    source: BaseModelSource
    start: ParentAdapter | None
    settings: Settings
    rows: Sequence[TokenisedExample]
    weights: Weights
    output_dir: Path
    adapter: Path
    resume: bool
    references: ReferenceCache | None

    def train(
        self,
        *,
        progress: Progress = lambda _state: None,
        check: Callable[[], None] = lambda: None,
    ) -> kto.TrainingResult:
        """Load the model and train it in this process; the first process saves the adapter.

        `progress` receives `expected_seconds` before what `kto.train` reports.
        """
        model, tokenizer = load_for_training(self.source, self.settings)
        if self.start is not None:
            model = self.start.load_into(model)
        check()
        settings = settle_engine(self.settings, model)
        expected = expected_seconds(model, self.rows, settings)
        log.info("The training takes about %s from the beginning.", spoken(expected))
        progress({"phase": "training", "expected_seconds": expected})
        model, result = kto.train(
            *(model, tokenizer, self.rows),
            weights=self.weights,
            settings=settings,
            output_dir=self.output_dir,
            resume=self.resume,
            references=self.references,
            progress=progress,
            check=check,
        )
        if PartialState().is_main_process:
            kto.save_adapter(model, self.adapter, base_model=self.source.name)
            if settings.tuning == "full":
                tokenizer.save_pretrained(self.adapter)
        return result


def work(
    job: Job, store: str, gpus: Sequence[str], lines: Sequence[Connection]
) -> kto.TrainingResult | Interrupted:
    """Train in a process of the elastic agent; sends log records, progress and a failure to the supervisor.

    Each process has its line. What the supervisor sends on it means: stop after this step. Its end means:
    end now. The processes find each other through the file `store`, so no port is open.
    """
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # sent to the whole session; the supervisor decides
    rank, processes = int(os.environ["RANK"]), len(lines)
    line, stop = lines[rank], threading.Event()
    threading.Thread(target=_listen, args=(line, stop), name="supervisor", daemon=True).start()
    os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "NCCL_SOCKET_IFNAME": "lo"}
    if gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)  # accelerate takes the one of LOCAL_RANK
    prepare_process()
    share = max(1, torch.get_num_threads() // processes)
    os.environ["OMP_NUM_THREADS"] = str(share)  # accelerate would set another number without it
    torch.set_num_threads(share)
    handler = QueueHandler(SimpleNamespace(put_nowait=line.send))
    if rank > 0:
        handler.setFormatter(logging.Formatter(f"Process {rank + 1}: %(message)s"))
    logging.getLogger().addHandler(handler)
    logging.getLogger("trainer").setLevel(logging.INFO if rank == 0 else logging.WARNING)

    def check() -> None:
        if stop.is_set():
            raise Interrupted("terminated")

    try:
        PartialState(cpu=not gpus, init_method=f"file://{store}", rank=rank, world_size=processes)
        progress: Progress = line.send if rank == 0 else lambda _state: None
        return job.train(progress=progress, check=check)
    except Interrupted as interrupted:
        return interrupted
    except Exception as error:
        if is_of_another(error):
            time.sleep(AGENT_NOTICES_WITHIN)
        line.send(_portable(error, f"In process {rank + 1} of {processes}:\n{traceback.format_exc()}"))
        raise
    finally:
        leave_group()


def follow_launched() -> None:
    """Be a worker that torchrun or accelerate launch started: wait for the first one's job and do it."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # the launcher sends them to every process
    PartialState(cpu=not torch.cuda.is_available())
    job, file = broadcast_object_list([None, ""])
    if job is not None and all(gather_object([Path(file).exists()])):
        with contextlib.suppress(Interrupted):  # the first process stops for the same reason and reports it
            job.train()
    leave_group()


def is_of_another(error: Exception) -> bool:
    """Whether a collective failed, as it does when another process is gone, perhaps still exiting."""
    return isinstance(error, torch.distributed.DistError) or (
        isinstance(error, RuntimeError) and "gloo" in str(error)
    )


def leave_group() -> None:
    """End the process group, if there is one: threads that outlive it abort the process at exit."""
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def _listen(line: Connection, stop: threading.Event) -> None:
    with contextlib.suppress(EOFError, OSError):
        while line.recv():
            stop.set()
    os._exit(1)  # the main thread may be stuck in a collective


def _portable(error: Exception, note: str) -> Exception:
    """The error with a note, or one with the same text if it cannot be pickled."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(f"{type(error).__name__}: {error}")
    if is_out_of_memory(error) and not isinstance(error, MemoryError):
        error = MemoryError(str(error))
    error.add_note(note)
    return error
