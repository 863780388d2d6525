"""Runs a sweep: trains and measures points with different β, loss and learning rate.

Every point is one epoch from a fresh adapter on the same rows in the same order with the same seed, measured
on the same held-out votes. The design follows Hugging Face's study "Preference Tuning LLMs with Direct
Preference Optimization Methods" (2024). trainer.sweep.grid ranks the points.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from storage.errors import Conflict, InvalidInput, NotReady
from storage.settings import Settings
from trainer.adapters.tuning_modes import refuse_full
from trainer.engine import kto
from trainer.engine.callbacks import Progress
from trainer.judge.rubric import read_rubric
from trainer.judge.specs import ServerSpec
from trainer.model import base_model
from trainer.model.base_model import BaseModelSource
from trainer.model.host_limits import is_full
from trainer.sweep.data import FileSource, SweepRows, Votes, read_split
from trainer.sweep.folder import SweepFolder, all_sweeps, new_folder
from trainer.sweep.grid import UNPAIRED, Grid, Point, Ranking, Result, shown_measures, table_cell
from trainer.sweep.outcome import Sweep
from trainer.sweep.point import PointMaker
from trainer.text import spoken

log = logging.getLogger(__name__)

# Settings that all points share, in addition to the rows.
SETTINGS = {*kto.SETTINGS, "hold_out_fraction"} - {"beta", "loss_type", "learning_rate", "epochs"}
# What the judge reads depends on these, too.
SAMPLING = {"gate_prompts", "gate_reply_tokens", "max_new_tokens", "temperature", "top_p", "system_prompt"}
JUDGING = ("judge", "rank")  # in the identity of a sweep with a judge
LEAST_PAIRS = 2


@dataclass(frozen=True)
class WantedSweep:
    """The sweep to run. With `strict`, losses without data are refused instead of left out.

    Without `out`, the newest unfinished sweep of the installation with the same plan is resumed, or a new one
    begins. `budget` is in seconds. A `judge` rates replies of each point, and ranks them unless `rank` says
    otherwise.
    """

    of: FileSource | Votes
    grid: Grid
    settings: Settings
    out: Path | None = None
    strict: bool = False
    budget: float | None = None
    judge: ServerSpec | None = None
    rank: Ranking | None = None

    def __post_init__(self) -> None:
        if self.rank == "judge" and self.judge is None:
            raise InvalidInput("--rank judge: name the judge with --judge.", field="rank")
        if self.judge is not None and not self.settings.gate_prompts:
            raise InvalidInput(
                "THUMBLOOP_GATE_PROMPTS=0: the judge would have no replies to read; set it to 10 or more.",
                field="gate_prompts",
            )

    @property
    def judging(self) -> dict[str, Any]:
        """What the identity of the sweep has of the judge; nothing without one."""
        if self.judge is None:
            return {}
        sampling = self.settings.model_dump(mode="json", include=SAMPLING)
        rubric = hashlib.sha256(read_rubric("overall").text.encode()).hexdigest()
        judge = {**self.judge.identity, "rubric": rubric, **sampling}
        return {"judge": judge, "rank": self.rank or "judge"}


def run_sweep(
    wanted: WantedSweep,
    *,
    progress: Progress = lambda _state: None,
    check: Callable[[], None] = lambda: None,
) -> tuple[SweepFolder, Sweep]:
    """Train and measure the missing points; returns the folder and its contents.

    With a budget, no point is started that would exceed it if it took as long as the longest one so far; the
    first missing point is always made. `check` may raise Interrupted; the next call repeats the interrupted
    point. Raises InvalidInput, Conflict and NotReady with the reason.
    """
    began = time.monotonic()
    refuse_full(wanted.settings)
    progress({"phase": "reading feedback"})
    source = base_model.resolve(wanted.settings, progress=log.info)
    settings = source.complete(wanted.settings, epochs=1.0)
    fingerprint = base_model.fingerprint(source)
    identity = {
        **settings.model_dump(mode="json", include=SETTINGS),
        "grid": json.loads(json.dumps(asdict(wanted.grid))),
        "source": "file" if isinstance(wanted.of, FileSource) else "votes",
        "weights of the model": fingerprint,
        **wanted.judging,
    }
    folder, split = _find(wanted, identity, settings, source)
    plan = folder.plan or _plan(wanted, identity, settings, split)
    for line in (*split.lines, *plan["left_out"]):
        log.info("%s", line)
    try:
        with folder.claimed(plan):
            log.info("The sweep is in %s.", folder.folder)
            maker = PointMaker(split, settings, source, fingerprint, folder.folder, check, wanted.judge)
            _make_missing(folder, maker, wanted.budget, began, progress)
            folder.draw()
    except (OSError, SafetensorError, RuntimeError) as error:
        if not is_full(error):
            raise
        raise NotReady(
            f"{folder.folder} could not be written ({error}); free some disk space and repeat the command: "
            f"it resumes with the missing points.",
            code="no_room",
            field="out",
        ) from error
    return folder, folder.read()


def _find(
    wanted: WantedSweep, identity: dict[str, Any], settings: Settings, source: BaseModelSource
) -> tuple[SweepFolder, SweepRows]:
    """The folder to resume or a new one, with the feedback that its plan refers to."""
    tokenizer = base_model.load_tokenizer(source)

    def split_of(plan: dict[str, Any] | None) -> SweepRows:
        return read_split(wanted.of, tokenizer, source, settings, origin=plan and plan["origin"])

    if wanted.out is not None:
        folder = SweepFolder(wanted.out)
        if folder.plan is None:
            return folder, split_of(None)
        found = folder.plan["identity"]
        if wanted.judge is None and not folder.read().left:  # nobody is to be asked
            identity = identity | {name: found[name] for name in JUDGING if name in found}
        names = {*identity, *(name for name in JUDGING if name in found)}
        changed = sorted(name for name in names if found.get(name) != identity.get(name))
        if not changed and (split := split_of(folder.plan)).sha256 == folder.plan["split_sha256"]:
            return folder, split
        raise Conflict(
            f"{wanted.out} holds a sweep with another {', '.join(changed) or 'feedback'}; repeat that "
            f"command to resume it, or name another folder with --out.",
            field="out",
        )
    for folder in all_sweeps(settings.data_dir):
        if folder.plan is not None and folder.plan["identity"] == identity and folder.read().left:
            if (split := split_of(folder.plan)).sha256 == folder.plan["split_sha256"]:
                return folder, split
            log.info("The feedback of the sweep in %s has changed; a new sweep begins.", folder.folder)
            break
    return SweepFolder(new_folder(settings.data_dir)), split_of(None)


def _plan(
    wanted: WantedSweep, identity: dict[str, Any], settings: Settings, split: SweepRows
) -> dict[str, Any]:
    """The plan that the study stores. Raises InvalidInput if no point is left."""
    grid, left_out = wanted.grid, []
    unpaired = tuple(loss for loss in grid.losses if loss in UNPAIRED)
    if len(unpaired) < len(grid.losses) and len(split.pairs) < LEAST_PAIRS:
        lack = (
            f"DPO and IPO need pairs, an up and a down reply to the same prompt, and there are "
            f"{len(split.pairs)} to train on"
        )
        if wanted.strict or not unpaired:
            raise InvalidInput(f"{lack}; leave them out of --losses.", field="losses")
        grid = replace(grid, losses=unpaired)
        left_out.append(f"{lack}: they are left out.")
    ups = sum(row.label for row in split.held_out)
    return {
        "created_at": datetime.now(UTC).isoformat(),
        "identity": identity,
        "origin": split.origin,
        "split_sha256": split.sha256,
        "training": {"up": split.plan.up, "down": split.plan.down, "pairs": len(split.pairs)},
        "held_out": {"up": ups, "down": len(split.held_out) - ups},
        "gate_min_votes": settings.gate_min_votes,
        "grid": asdict(grid),
        "left_out": left_out,
    }


def _make_missing(
    folder: SweepFolder, maker: PointMaker, budget: float | None, began: float, progress: Progress
) -> None:
    begun = folder.read()
    total, longest = begun.left, 0.0
    if maker.judge is not None and total and begun.base is None:
        # Before anything is trained: a judge that is away or refuses the key is known by then.
        folder.keep_base(
            maker.rate(None, lambda state: progress({**state, "phase": "rating the base model"}))
        )
    for number in range(1, total + 1):
        start = time.monotonic()
        if number > 1 and budget is not None and start - began + longest > budget:
            log.info("The budget is used up.")
            return
        trial = folder.next_trial()
        point = Point(**trial.params)

        def show(state: dict[str, Any], phase: str = f"{number} of {total}: {point.name}") -> None:
            progress({**state, "phase": phase})

        result = maker.make(point, show)
        folder.keep(trial, result)
        took = time.monotonic() - start
        longest = max(longest, took)
        log.info("%s: %s", point.name, _described(result))
        if number == 1 and total > 1:
            log.info("The other %d take about %s.", total - 1, spoken((total - 1) * took))


def _described(result: Result) -> str:
    if result.diverged:
        return f"diverged. {result.diverged}"
    cells = [(one.title, table_cell(one, result.__getitem__)) for one in shown_measures(judged=True)]
    figures = [f"{title} {cell}" for title, cell in cells if cell]
    return f"{', '.join(figures) or 'no AUC'}; {spoken(result.seconds)} of training."
