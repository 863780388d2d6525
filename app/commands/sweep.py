"""`thumbloop sweep`: tries β, loss and learning rate on one's own feedback; shows a table and the winner."""

from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from app.commands.terminal import opened_database, print_table, say
from app.commands.train_file import refuse_launched, shown_training
from storage.errors import Conflict, InvalidInput
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings, load_settings
from storage.settings.toml_file import FILE, write_settings
from trainer.judge.specs import FORM, parse_server
from trainer.launch.environment import prepare_process
from trainer.sweep.grid import Grid, Ranking, named_grid, shown_measures, table_cell
from trainer.text import spoken

if TYPE_CHECKING:
    from trainer.sweep.folder import SweepFolder
    from trainer.sweep.outcome import Sweep

STATES = {"measured": "", "fell": "liked replies became less likely", "diverged": "diverged"}
DRAWS = 20


def sweep(
    data: Path | None = typer.Option(None, help="Sweep on this file or folder instead of on votes."),
    out: Path | None = typer.Option(
        None, help="Folder of the sweep, new or to be resumed. Default: one in the data directory."
    ),
    grid: Literal["full", "small"] | None = typer.Option(
        None, help="full (the default): 10 β, 4 losses, 3 learning rates. small: 3 β, 2 losses, one."
    ),
    betas: str | None = typer.Option(None, help="Other values of β, separated by commas."),
    losses: str | None = typer.Option(
        None, help="Other losses, separated by commas: kto, apo_zero_unpaired, dpo, ipo."
    ),
    learning_rates: str | None = typer.Option(None, help="Other learning rates, separated by commas."),
    sampler: Literal["grid", "random", "tpe"] | None = typer.Option(
        None, help="grid (the default): every combination. random, tpe: points drawn between the values."
    ),
    points: int | None = typer.Option(None, min=1, help=f"Number of points to draw; {DRAWS} if not given."),
    budget: float | None = typer.Option(
        None, min=0, metavar="MINUTES", help="Start no point that would end later; at least one is trained."
    ),
    judge: str | None = typer.Option(
        None, help=f"A judge model that rates replies of each point from 1 to 5: {FORM}."
    ),
    rank: Ranking | None = typer.Option(
        None,
        help="What ranks the points: auc, of held-out votes, or judge. Default: the judge, if there is one.",
    ),
    max_rows: int | None = typer.Option(None, min=1, help="Only the first rows of the file."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out bad records of the file."),
    apply: bool = typer.Option(
        False, "--apply", help="Write beta, loss_type and learning_rate of the winner into thumbloop.toml."
    ),
    force: bool = typer.Option(
        False, "--force", help="With --apply: even if the evidence is thin or points are missing."
    ),
) -> None:
    """Train a grid of settings for an epoch each and rank them on held-out votes, or by a judge.

    Ctrl-C stops, with exit code 130; the same command continues with the missing points.
    """
    if data is None and (max_rows is not None or skip_bad):
        option = "--skip-bad" if skip_bad else "--max-rows"
        raise InvalidInput(f"{option} is for a sweep on a file: name one with --data.")
    if force and not apply:
        raise InvalidInput("--force is for --apply: add that, or leave it out.", field="force")
    refuse_launched()
    settings = load_settings()
    spec = parse_server(judge, "judge") if judge is not None else None
    asked: dict[str, Any] = {
        "betas": betas and _numbers("betas", betas),
        "losses": losses and _parts(losses),
        "learning_rates": learning_rates and _numbers("learning-rates", learning_rates),
        "sampler": sampler,
        "draws": DRAWS if points is None and sampler not in (None, "grid") else points,
    }
    asked = {name: value for name, value in asked.items() if value is not None}
    known = None if out is None or grid or asked else _grid_in(out)
    chosen = known or replace(named_grid(grid or "full", settings), **asked)
    prepare_process()
    with ExitStack() as at_end:
        artifacts = Artifacts(settings.data_dir)
        if data is None:
            database = at_end.enter_context(opened_database())[1]
            artifacts = open_artifacts(settings, database)
        progress, check = at_end.enter_context(
            shown_training("sweep", "continues with the missing points", settings)
        )
        from trainer.sweep.data import FileSource, Votes
        from trainer.sweep.stored import share_sweeps
        from trainer.sweep.sweep import WantedSweep, run_sweep

        def show(state: dict[str, Any]) -> None:
            progress.show_progress(state)
            check()

        of = Votes(database) if data is None else FileSource(data, max_rows, skip_bad)
        seconds = None if budget is None else 60 * budget
        wanted = WantedSweep(
            of, chosen, settings, out, strict=losses is not None, budget=seconds, judge=spec, rank=rank
        )
        share_sweeps(artifacts)
        at_end.callback(share_sweeps, artifacts)
        folder, found = run_sweep(wanted, progress=show, check=check)
    _show(found, folder)
    if apply:
        _apply(found, settings, force)


def _grid_in(out: Path) -> Grid | None:
    """The grid of the sweep to resume, if there is one."""
    from trainer.sweep.folder import SweepFolder

    plan = SweepFolder(out).plan
    return None if plan is None else Grid.from_dict(plan["identity"]["grid"])


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _parts(text))
    except ValueError as error:
        raise InvalidInput(
            f"--{option} {text}: give numbers separated by commas, such as 0.1,0.3."
        ) from error


def _parts(text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _show(found: "Sweep", folder: "SweepFolder") -> None:
    from trainer.sweep.folder import PLOT, TABLE

    measures = shown_measures(judged=found.judge is not None)
    rows = [
        (
            str(number) if result.is_sound(found.by) else "",
            result.point.loss,
            f"{result.point.beta:g}",
            f"{result.point.learning_rate:g}",
            *(table_cell(measure, result.__getitem__) for measure in measures),
            spoken(result.seconds),
            STATES[result.state],
        )
        for number, result in enumerate(found.ranked, 1)
    ]
    heads = ("rank", "loss", "β", "learning rate", *(measure.title for measure in measures), "training", "")
    print_table(heads, rows, empty="No point has been trained.")
    if found.left:
        say(f"{found.left} points are missing; the same command continues with them.")
    say(found.verdict())
    files = [folder.folder / name for name in (TABLE, PLOT) if (folder.folder / name).exists()]
    say(f"Figures in nats: {' and '.join(map(str, files))}")


def _apply(found: "Sweep", settings: Settings, force: bool) -> None:
    """Write the best point for runs into the settings file; raises Conflict without a clear winner."""
    best = found.best_for_runs
    if best is None:
        raise Conflict("Nothing was written: no point of kto or apo_zero_unpaired can win.", code="no_winner")
    doubts = found.doubts_of(best) or (f"{found.left} points are missing" if found.left else None)
    if doubts and not force:
        raise Conflict(
            f"Nothing was written into {FILE}: {doubts}. --force writes the winner anyway.",
            code="not_enough_evidence",
        )
    if best != found.winner:
        say(f"Runs train on votes, not on pairs; the best point with a loss for votes is {best.point.name}.")
    point = best.point
    lines = write_settings(
        {"beta": point.beta, "loss_type": point.loss, "learning_rate": point.learning_rate}
    )
    say(f"Wrote into {FILE.absolute()}: {'; '.join(lines)}.")
    say("A running server reads them at its next start.")
    if settings.epochs != 1:
        say(f"The points were trained for one epoch, and THUMBLOOP_EPOCHS is {settings.epochs:g}.")
