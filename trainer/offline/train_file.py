"""Trains on a file of rated data: rows in, an adapter folder out. Knows no database."""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from storage.errors import InvalidInput, NotReady
from storage.imports.formats import NO_OPTIONS, ImportOptions
from storage.settings import Settings
from trainer.adapters.lineage import write_lineage
from trainer.adapters.tuning_modes import load_for_training, open_references
from trainer.dataset.batch_order import write_order
from trainer.dataset.plan import TrainingPlan, plan_training
from trainer.dataset.split import without_contradictions
from trainer.dataset.tokenise import TokenisedExample, rows_digest, tokenise
from trainer.engine import kto
from trainer.engine.callbacks import Progress
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.select import settle_engine
from trainer.engine.time_estimate import expected_seconds
from trainer.launch import launcher
from trainer.launch.worker import Job
from trainer.model import base_model
from trainer.model.base_model import BaseModelSource
from trainer.model.host_limits import is_damaged, is_full
from trainer.offline.out_folder import OutFolder
from trainer.offline.report import FileReport
from trainer.offline.rows import read_rows
from trainer.text import counted, spoken

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
    source, settings = _resolve(wanted.settings)
    rows, plan = _prepare(wanted, settings, base_model.load_tokenizer(source), check)
    training = _Training(wanted, settings, source, rows, plan, out, began)
    try:
        with out.claimed(training.identity()) as resume:
            return training.carry_out(resume, progress, check)
    except (OSError, SafetensorError, RuntimeError, EOFError) as error:
        named = (error.filename2 or error.filename) if isinstance(error, OSError) else None
        remedy = "see to that"
        if is_full(error):
            named, remedy = wanted.out, "free some space"
        elif is_damaged(error):
            named, remedy = out.checkpoints, "remove the newest of them"
        elif not named:
            raise
        raise NotReady(
            f"{named} could not be written or read ({error}); {remedy}, and the same command goes on at the "
            f"last checkpoint.",
            field="out",
        ) from error


def plan_on_file(wanted: OfflineTraining) -> TrainingPlan:
    """Plan the training, and write the order if wanted, without loading weights.

    Raises what `train_on_file` would raise before training.
    """
    source, settings = _resolve(wanted.settings)
    return _prepare(wanted, settings, base_model.load_tokenizer(source))[1]


def _resolve(settings: Settings) -> tuple[BaseModelSource, Settings]:
    """The base model, ready to load, and the settings completed from it and the machine."""
    source = base_model.resolve(settings, progress=log.info)
    update = {
        "precision": base_model.name_of(source.dtype),
        "max_length": min(settings.max_length, source.max_context),
        "training_processes": launcher.how_many(settings.training_processes, source.device),
    }
    return source, settings.model_copy(update=update)


def _prepare(
    wanted: OfflineTraining, settings: Settings, tokenizer: Any, check: Callable[[], None] = lambda: None
) -> tuple[list[TokenisedExample], TrainingPlan]:
    """Read and tokenise the file and plan the training; logs the plan before anything is loaded."""
    found = read_rows(wanted.data, options=wanted.options, skip_bad=wanted.skip_bad, max_rows=wanted.max_rows)
    for line in found.lines():
        log.info("%s", line)
    rows, dropped = tokenise(tokenizer, found.examples, max_length=settings.max_length, check=check)
    rows = without_contradictions(rows, dropped)
    plan = plan_training(rows, dropped, settings, processes=settings.training_processes)
    if len(rows) < settings.batch_size:
        few = (
            f"{counted(len(rows), 'row')} to train on, fewer than a micro-batch of {settings.batch_size}, on "
            f"which KTO estimates its KL term; add rows, or lower the batch size."
        )
        raise InvalidInput(" ".join([few, *dropped.lines()]), field="batch_size")
    for line in plan.lines():
        log.info("%s", line)
    if wanted.order is not None:
        write_order(rows, settings, wanted.order, processes=plan.processes)
    return rows, plan


@dataclass
class _Training:
    """A training whose rows are known, from loading the model to the report."""

    wanted: OfflineTraining
    settings: Settings
    source: BaseModelSource
    rows: list[TokenisedExample]
    plan: TrainingPlan
    out: OutFolder
    began: float

    def __post_init__(self) -> None:
        self.chosen = self.settings.model_dump(mode="json", include={*kto.SETTINGS, "training_processes"})
        self.fingerprint = base_model.fingerprint(self.source)
        self.sha256 = rows_digest(self.rows)

    def identity(self) -> dict[str, Any]:
        """What must be equal for a repeated command to resume this training."""
        return self.chosen | {"data": self.sha256, "weights of the model": self.fingerprint}

    def carry_out(self, resume: bool, progress: Progress, check: Callable[[], None]) -> dict[str, Any]:
        progress({"phase": "loading the model"})
        model, tokenizer = load_for_training(self.source, self.settings)
        check()
        settled = settle_engine(self.settings, model)
        expected = expected_seconds(model, self.rows, settled, self.plan.processes)
        log.info("That will take about %s from the start.", spoken(expected))
        report = FileReport.continued(self.out.checkpoints) if resume else FileReport()
        before = len(report.steps)

        def note(state: dict[str, Any]) -> None:
            if "loss" in state:
                if len(report.steps) == before and state["step"] < state["steps"]:
                    log.info("By the first step, about %s are left.", spoken(state["seconds_left"]))
                report.note(state)
            progress(state)

        set_up = time.monotonic() - self.began
        job = Job(
            *(self.source, None, settled, self.rows, self.plan.weights),
            *(self.out.checkpoints, resume, self._references()),
        )
        model, result = launcher.train(
            job, model, tokenizer, processes=self.plan.processes, progress=note, check=check
        )
        progress({"phase": "writing the adapter"})
        self._stage(model, tokenizer, result)
        told = report.to_dict(
            *(result, self.plan, self.source),
            settings=self.chosen,
            set_up=set_up,
            expected=expected,
        )
        if self.wanted.report is not None:
            self.wanted.report.write_text(json.dumps(told, indent=2) + "\n")
        self.out.publish()  # last: until then, the same command completes what is missing
        return told

    def _references(self) -> ReferenceCache | None:
        if self.wanted.references is None:
            return None
        return open_references(self.wanted.references, self.source, self.fingerprint, self.settings)

    def _stage(self, model: Any, tokenizer: Any, result: kto.TrainingResult) -> None:
        staging = self.out.new_staging()
        kto.save_adapter(model, staging, base_model=self.source.name)
        if self.settings.tuning == "full":
            tokenizer.save_pretrained(staging)
        write_lineage(
            staging,
            origin={
                "data": {"file": self.wanted.data.name, "sha256": self.sha256},
                "records": [row.example.message_id for row in self.rows],
            },
            settings=self.chosen,
            rows=self.rows,
            weights=self.plan.weights,
            training=result.to_dict(),
            start=None,
        )
