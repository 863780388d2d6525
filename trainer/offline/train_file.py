"""Trains on a file of rated data: rows in, an adapter folder and a report out. Knows no database."""

import json
import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from storage.errors import NotReady
from storage.imports.rows.options import NO_OPTIONS, ImportOptions
from storage.settings import Settings
from trainer.adapters.lineage import write_lineage
from trainer.adapters.tuning_modes import open_references
from trainer.dataset.batch_order import write_order
from trainer.dataset.plan import TrainingPlan, plan_training
from trainer.dataset.split import without_contradictions
from trainer.dataset.tokenise import TokenisedExample, rows_digest, tokenise
from trainer.engine import kto
from trainer.engine.callbacks import Progress
from trainer.engine.trl_trainer import newest_checkpoint
from trainer.launch import launcher
from trainer.launch.worker import Job
from trainer.model import base_model
from trainer.model.base_model import BaseModelSource
from trainer.model.host_limits import is_damaged, is_full
from trainer.offline.out_folder import OutFolder
from trainer.offline.rows import read_rows
from trainer.text import spoken

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class OfflineTraining:
    """What to train on and where to write; `settings` says how.

    `references` is the folder of cached reference log-probabilities, if any. The order of the micro-batches
    is written to `order` and the report to `report`, if given. `out` may be None for a plan only.
    """

    data: Path
    out: Path | None
    settings: Settings
    references: Path | None
    max_rows: int | None = None
    skip_bad: bool = False
    options: ImportOptions = NO_OPTIONS
    order: Path | None = None
    report: Path | None = None


def plan_on_file(wanted: OfflineTraining) -> TrainingPlan:
    """Plan the training, and write the order if wanted, without loading weights.

    Raises what `train_on_file` would raise before training.
    """
    return _prepare(wanted)[-1]


def train_on_file(
    wanted: OfflineTraining,
    *,
    progress: Progress = lambda _state: None,
    check: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Train on a file and leave the adapter in `out`; returns the report as JSON.

    Called again with the same arguments after an interruption, it resumes from the newest checkpoint.
    `progress` receives what a run's row would; `check` may raise Interrupted. Raises InvalidInput, Conflict,
    NotReady with the reason, Diverged, OutOfMemory and ProcessLost.
    """
    began = time.monotonic()
    assert wanted.out is not None
    out = OutFolder(wanted.out)
    progress({"phase": "reading rows"})
    source, settings, rows, plan = _prepare(wanted, check)
    chosen = settings.model_dump(mode="json", include={*kto.SETTINGS, "training_processes"})
    fingerprint, sha256 = base_model.fingerprint(source), rows_digest(rows)
    identity = chosen | {"data": sha256, "weights of the model": fingerprint}
    with _named_file_errors(out), out.claimed(identity) as resume:
        progress({"phase": "loading the model"})
        seconds: dict[str, float] = {}
        steps = _steps_of_checkpoint(out.checkpoints) if resume else []
        before = len(steps)

        def note(state: dict[str, Any]) -> None:
            if "expected_seconds" in state:
                seconds.update(set_up=time.monotonic() - began, expected=state["expected_seconds"])
            if "loss" in state:
                if len(steps) == before and state["step"] < state["steps"]:
                    log.info("By the first step, about %s are left.", spoken(state["seconds_left"]))
                steps.append(_step(state, "gradient_norm"))
            progress(state)

        references = None
        if wanted.references is not None:
            references = open_references(wanted.references, source, fingerprint, settings)
        staging = out.new_staging()
        job = Job(source, None, settings, rows, plan.weights, out.checkpoints, staging, resume, references)
        result = launcher.train(job, processes=plan.processes, progress=note, check=check)
        progress({"phase": "writing the adapter"})
        write_lineage(
            staging,
            origin={
                "data": {"file": wanted.data.name, "sha256": sha256},
                "records": [row.example.message_id for row in rows],
            },
            settings=chosen,
            rows=rows,
            weights=plan.weights,
            training=asdict(result),
            start=None,
        )
        report = {
            "engine": result.engine,
            "processes": result.processes,
            "model": source.name,
            "device": torch.cuda.get_device_name() if source.device.type == "cuda" else source.device.type,
            "precision": settings.precision,
            "rows": plan.rows,
            "tokens": plan.tokens,
            "seconds": seconds | {"training": result.seconds},
            "seconds_per_row": result.seconds_per_row,
            "peak_memory_mb": result.peak_memory / 2**20,
            "steps": steps,
            "resumed_from_step": result.resumed_from_step,
            "gradient_checkpointing": result.gradient_checkpointing,
            "noise_floor": result.noise_floor,
            "references_reused": result.references_reused,
            "settings": chosen,
            **plan.to_metrics(),
        }
        if wanted.report is not None:
            wanted.report.write_text(json.dumps(report, indent=2) + "\n")
        out.publish()  # last: until then, the same command completes what is missing
    return report


def _prepare(
    wanted: OfflineTraining, check: Callable[[], None] = lambda: None
) -> tuple[BaseModelSource, Settings, list[TokenisedExample], TrainingPlan]:
    """Read and tokenise the file and plan the training; logs the plan before weights are loaded.

    The settings are completed from the base model and the machine.
    """
    source = base_model.resolve(wanted.settings, progress=log.info)
    processes = launcher.how_many(wanted.settings.training_processes, source.device)
    settings = source.complete(wanted.settings, training_processes=processes)
    tokenizer = base_model.load_tokenizer(source)
    found = read_rows(wanted.data, options=wanted.options, skip_bad=wanted.skip_bad, max_rows=wanted.max_rows)
    for line in found.lines():
        log.info("%s", line)
    rows, dropped = tokenise(
        tokenizer,
        found.examples,
        max_length=settings.max_length,
        weigh=lambda example: example.share or 1.0,
        check=check,
    )
    rows = without_contradictions(rows, dropped, settings.max_length)
    plan = plan_training(rows, dropped, settings, processes=processes)
    plan.refuse_few_rows()
    for line in plan.lines():
        log.info("%s", line)
    if wanted.order is not None:
        write_order(rows, settings, wanted.order, processes=plan.processes)
    return source, settings, rows, plan


@contextmanager
def _named_file_errors(out: OutFolder) -> Iterator[None]:
    """Turn errors of files, the disk and damaged checkpoints into NotReady with a remedy."""
    try:
        yield
    except (OSError, SafetensorError, RuntimeError, EOFError) as error:
        named = (error.filename2 or error.filename) if isinstance(error, OSError) else None
        remedy = "correct that"
        if is_full(error):
            named, remedy = out.folder, "free some disk space"
        elif is_damaged(error):
            named, remedy = out.checkpoints, "remove the newest of them"
        elif not named:
            raise
        raise NotReady(
            f"{named} could not be written or read ({error}); {remedy} and repeat the command: it resumes at "
            f"the last checkpoint.",
            field="out",
        ) from error


def _steps_of_checkpoint(checkpoints: Path) -> list[dict[str, Any]]:
    """The steps that an interrupted training had made by its newest checkpoint."""
    newest = newest_checkpoint(checkpoints)
    if newest is None:
        return []
    history = json.loads((newest / "trainer_state.json").read_text())["log_history"]
    return [_step(entry, "grad_norm") for entry in history if "loss" in entry]


def _step(logged: dict[str, Any], norm: str) -> dict[str, Any]:
    return {
        "step": logged["step"],
        "loss": logged["loss"],
        "grad_norm": logged.get(norm),
        "z0": logged.get("kl"),
    }
