"""The folder of a sweep: an Optuna study and the results derived from it.

    journal.log     the study: its plan, which never changes, a trial for each point that was started, and
                    maybe a judge's rating of the base model
    results.csv     all points, best first
    plot.png        if matplotlib is installed

A point without a result is still missing. Knows no model.
"""

import csv
import importlib.util
import json
import logging
import os
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution
from optuna.samplers import RandomSampler, TPESampler
from optuna.storages.journal import JournalFileBackend, JournalStorage
from optuna.trial import TrialState

from storage.db.ids import is_id, new_id
from storage.errors import Conflict, NotFound
from storage.files.atomic import written_aside
from trainer.offline.out_folder import claimed_folder
from trainer.sweep.grid import MEASURES, Grid, Point, Ranking, Result, rank
from trainer.sweep.outcome import Sweep, ranking_of

log = logging.getLogger(__name__)

SWEEPS = "sweeps"
JOURNAL, TABLE, PLOT = "journal.log", "results.csv", "plot.png"
LOCK, JOURNAL_LOCK = "lock", f"{JOURNAL}.lock"  # ours, and the one that Optuna has while it writes
PLAN, BASE, RESULT = "plan", "base", "result"  # attributes of the study, and of a trial
TARGETS: dict[Ranking, str] = {"auc": "AUC on held-out votes", "judge": "the judge's mean rating"}


class SweepFolder:
    """The folder of a sweep. Raises Conflict if it holds something else."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.journal, self.plot = self.folder / JOURNAL, self.folder / PLOT
        self.plan: dict[str, Any] | None = None
        if self.folder.exists() and not self.folder.is_dir():
            raise Conflict(f"{folder} is a file; name a folder with --out.", field="out")
        with suppress(KeyError):  # killed before the study had its plan
            self.plan = self.study.user_attrs[PLAN] if self.journal.exists() else None
        held = {path.name for path in self.folder.iterdir()} if self.folder.is_dir() else set()
        if self.plan is None and held - {JOURNAL, JOURNAL_LOCK, LOCK}:
            raise Conflict(
                f"{folder} holds something that is not a sweep, or one of an earlier version; name a new or "
                f"empty folder with --out.",
                field="out",
            )

    @cached_property
    def study(self) -> optuna.Study:
        """The Optuna study. Raises KeyError if none was started, Conflict if the journal is damaged."""
        try:
            return optuna.load_study(study_name=SWEEPS, storage=_storage(self.journal))
        except ValueError as error:
            reason = f"{self.journal} is damaged: {error}; name another folder."
            raise Conflict(reason, field="out") from error

    @contextmanager
    def claimed(self, plan: Mapping[str, Any]) -> Iterator[None]:
        """Lock the folder, and start the study if that was not done.

        Raises Conflict if another process has the folder, NotReady if it cannot be written.
        """
        with claimed_folder(self.folder, LOCK, "works on the sweep in"):
            for stale in self.folder.glob("point-*"):  # left by a process that was killed, like the next two
                shutil.rmtree(stale)
            (self.folder / JOURNAL_LOCK).unlink(missing_ok=True)
            if self.journal.exists():  # a full disk may have cut the last line, which no reader accepts
                os.truncate(self.journal, self.journal.read_bytes().rfind(b"\n") + 1)
            self._begin(plan)
            yield

    def _begin(self, plan: Mapping[str, Any]) -> None:
        if self.plan is None:
            optuna.create_study(
                study_name=SWEEPS, storage=_storage(self.journal), direction="maximize", load_if_exists=True
            )
            if PLAN in self.study.user_attrs:  # since the folder was opened
                raise Conflict(f"Another process began a sweep in {self.folder}; repeat the command.")
            self.plan = json.loads(json.dumps(plan))
            self.study.set_user_attr(PLAN, self.plan)
        trials = self.study.get_trials(deepcopy=False)
        sampler = TPESampler if self._grid().sampler == "tpe" else RandomSampler
        # The seed changes with the trials, so that a resumed sweep does not repeat its draws.
        self.study.sampler = sampler(seed=self.plan["identity"]["seed"] + len(trials))
        for trial in trials:
            if trial.state == TrialState.RUNNING:  # left by a process that was killed
                self.study.tell(trial.number, state=TrialState.FAIL)

    def next_trial(self) -> optuna.Trial:
        """The next trial, with its Point as parameters; call only while points are left.

        The points of a grid are enqueued one by one, because Optuna's GridSampler counts a killed one as
        done.
        """
        grid, missing = self._grid(), self.read().missing
        if missing and not self.study.get_trials(deepcopy=False, states=(TrialState.WAITING,)):
            self.study.enqueue_trial(asdict(missing[0]))
        space: dict[str, BaseDistribution] = {
            name: FloatDistribution(min(values), max(values), log=True)
            for name, values in (("beta", grid.betas), ("learning_rate", grid.learning_rates))
        }
        return self.study.ask({"loss": CategoricalDistribution(grid.losses)} | space)

    def keep(self, trial: optuna.Trial, result: Result) -> None:
        """Store a point's result in the study, and write the table again."""
        trial.set_user_attr(RESULT, {name: value for name, value in vars(result).items() if name != "point"})
        by = ranking_of(self.plan)
        pruned = None if result.is_sound(by) else TrialState.PRUNED  # a sampler treats it as the worst
        self.study.tell(trial, None if pruned else result[by], state=pruned)
        with written_aside(self.folder / TABLE) as part, part.open("w", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(_table(self.read()))

    def keep_base(self, measures: Mapping[str, float | None]) -> None:
        """Store the judge's rating of the base model's replies in the study."""
        self.study.set_user_attr(BASE, dict(measures))

    def read(self) -> Sweep:
        """The sweep so far. Raises NotFound if none was started."""
        grid = self._grid()
        results = [
            Result(Point(**trial.params), **trial.user_attrs[RESULT])
            for trial in self.study.get_trials(deepcopy=False)
            if RESULT in trial.user_attrs
        ]
        made = {result.point for result in results}
        missing = [point for point in grid.points() if point not in made]
        left = max(0, len(grid) - len(results))
        plan = self.plan or {}
        ranked, base = rank(results, ranking_of(plan)), self.study.user_attrs.get(BASE)
        return Sweep(self.folder.name, plan, ranked, missing, left, base)

    def draw(self) -> None:
        """Write the plot if a point can be ranked; without matplotlib, log that it is missing."""
        if importlib.util.find_spec("matplotlib") is None:
            log.warning(
                "No plot: matplotlib is not installed. After `pip install 'thumbloop[plot]'`, "
                "`thumbloop sweep --out %s` draws it.",
                self.folder,
            )
        elif any(result.is_sound(ranking_of(self.plan)) for result in self.read().ranked):
            import matplotlib as mpl

            mpl.use("agg")  # a backend that needs no display
            from matplotlib import pyplot
            from optuna.visualization.matplotlib import plot_slice

            with warnings.catch_warnings(action="ignore"), written_aside(self.plot) as part:
                plot_slice(
                    self.study, target_name=TARGETS[ranking_of(self.plan)]
                )  # experimental, so it warns
                pyplot.savefig(part, format="png", dpi=110)
                pyplot.close()

    def _grid(self) -> Grid:
        if self.plan is None:
            raise NotFound(f"There is no sweep in {self.folder}.")
        return Grid.from_dict(self.plan["grid"])


def all_sweeps(data_dir: Path) -> list[SweepFolder]:
    """The sweeps of an installation, newest first."""
    found = []
    for folder in sorted((data_dir / SWEEPS).glob("*/"), reverse=True):
        with suppress(Conflict):  # not a sweep
            found += [SweepFolder(folder)] if is_id(folder.name) else []
    return [folder for folder in found if folder.plan is not None]


def new_folder(data_dir: Path) -> Path:
    """The folder for the next sweep of an installation; not created yet."""
    (data_dir / SWEEPS).mkdir(mode=0o700, parents=True, exist_ok=True)
    return data_dir / SWEEPS / new_id()


def _storage(journal: Path) -> JournalStorage:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return JournalStorage(JournalFileBackend(str(journal)))


def _table(sweep: Sweep) -> Iterator[list[Any]]:
    """Rows of the table: all points, best first, then the missing ones.

    The seconds come last, because they differ between repetitions.
    """
    measures = [measure.name for measure in MEASURES]
    yield ["rank", *(field.name for field in fields(Point)), "state", *measures, "reason", "seconds"]
    for number, one in enumerate(sweep.ranked, 1):
        place, point = number if one.is_sound(sweep.by) else "", asdict(one.point).values()
        yield [place, *point, one.state, *(one[name] for name in measures), one.diverged, one.seconds]
    for missing in sweep.missing:
        yield ["", *asdict(missing).values(), "missing"]
