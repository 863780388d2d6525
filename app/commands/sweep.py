"""`thumbloop sweep`: β, loss and learning rate tried on one's own feedback; a table, and the winner."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer

from app.commands.run_progress import RunProgress
from app.commands.terminal import opened_database, print_table, say
from app.commands.train_file import STOPPED, lines_above, refuse_launched, stop_signals
from storage.errors import Conflict, InvalidInput

if TYPE_CHECKING:
    from storage.settings import Settings
    from trainer.sweep.folder import Sweep, SweepFolder
    from trainer.sweep.grid import Grid
    from trainer.sweep.sweep import WantedSweep

HEADS = ("rank", "loss", "β", "learning rate", "AUC", "margin", "liked replies", "z0", "training", "")
STATES = {"measured": "", "fell": "liked replies fell", "diverged": "diverged"}


def sweep(
    data: Path | None = typer.Option(None, help="Sweep on this file or folder alone, not on votes."),
    out: Path | None = typer.Option(
        None, help="Folder of the sweep, new or one to go on with; in the data directory if not given."
    ),
    grid: Literal["full", "small"] | None = typer.Option(
        None, help="full (the default): 10 β, 4 losses, 3 learning rates. small: 3 β, 2 losses, one."
    ),
    betas: str | None = typer.Option(None, help="Other values of β, with commas."),
    losses: str | None = typer.Option(
        None, help="Other losses, with commas: kto, apo_zero_unpaired, dpo, ipo."
    ),
    learning_rates: str | None = typer.Option(None, help="Other learning rates, with commas."),
    budget: float | None = typer.Option(
        None, min=0, metavar="MINUTES", help="Begin no point that would end later; at least one is made."
    ),
    max_rows: int | None = typer.Option(None, min=1, help="Only the first rows of the file."),
    skip_bad: bool = typer.Option(False, "--skip-bad", help="Leave out bad records of the file."),
    apply: bool = typer.Option(
        False, "--apply", help="Write beta, loss_type and learning_rate of the winner into thumbloop.toml."
    ),
    force: bool = typer.Option(
        False, "--force", help="With --apply: also where the evidence is thin or points are missing."
    ),
) -> None:
    """Train a grid of settings for an epoch each and rank them on held-out votes.

    Ctrl-C stops, with exit code 130; the same command goes on with the points that are missing.
    """
    if data is None and (max_rows is not None or skip_bad):
        option = "--skip-bad" if skip_bad else "--max-rows"
        raise InvalidInput(f"{option} is for a sweep on a file: name one with --data.")
    if force and not apply:
        raise InvalidInput("--force is for --apply: add that, or leave it out.", field="force")
    refuse_launched()
    from storage.settings import load_settings

    settings = load_settings()
    chosen = _grid(settings, out, grid, betas, losses, learning_rates)

    from trainer.launch.environment import prepare_process

    prepare_process()
    with ExitStack() as at_end:
        database = at_end.enter_context(opened_database())[1] if data is None else None
        progress = at_end.enter_context(RunProgress())
        at_end.enter_context(lines_above(progress))
        check = at_end.enter_context(stop_signals())
        progress.show_progress({}, "loading libraries")
        from trainer.sweep.data import FileSource, Votes
        from trainer.sweep.sweep import WantedSweep

        of: FileSource | Votes
        if data is not None:
            of = FileSource(data, max_rows=max_rows, skip_bad=skip_bad)
        else:
            assert database is not None
            of = Votes(database)
        wanted = WantedSweep(
            of,
            chosen,
            settings,
            out,
            strict=losses is not None,
            budget=None if budget is None else 60 * budget,
        )
        folder, found = _run(wanted, progress, check)
    _show(found, folder)
    if apply:
        _apply(found, force)


def _run(wanted: "WantedSweep", progress: RunProgress, check: Any) -> tuple["SweepFolder", "Sweep"]:
    import torch

    from trainer.errors import Interrupted
    from trainer.sweep.sweep import run_sweep

    def show(state: dict[str, Any]) -> None:
        progress.show_progress(state, str(state["phase"]))
        check()

    try:
        return run_sweep(wanted, progress=show, check=check)
    except (Interrupted, KeyboardInterrupt):
        progress.stop()
        say("Stopped. The same command goes on with the points that are missing.")
        raise typer.Exit(STOPPED) from None
    except (MemoryError, torch.OutOfMemoryError) as error:
        longest = wanted.settings.max_length
        told = str(error) or f"The sweep ran out of memory; lower THUMBLOOP_MAX_LENGTH ({longest})."
        raise Conflict(told, code="out_of_memory") from error


def _grid(
    settings: "Settings",
    out: Path | None,
    name: Literal["full", "small"] | None,
    betas: str | None,
    losses: str | None,
    learning_rates: str | None,
) -> "Grid":
    """What was asked for; where nothing was, that of the sweep to go on with."""
    from trainer.sweep.folder import SweepFolder
    from trainer.sweep.grid import Grid, named_grid

    asked = (name, betas, losses, learning_rates) != (None, None, None, None)
    if out is not None and not asked and (plan := SweepFolder(out).plan) is not None:
        return Grid(**{field: tuple(values) for field, values in plan["identity"]["grid"].items()})
    known = named_grid(name or "full", settings)
    return Grid(
        known.betas if betas is None else _numbers("betas", betas),
        known.losses if losses is None else tuple(_parts(losses)),  # type: ignore[arg-type]
        known.learning_rates if learning_rates is None else _numbers("learning-rates", learning_rates),
    )


def _numbers(option: str, text: str) -> tuple[float, ...]:
    try:
        return tuple(float(part) for part in _parts(text))
    except ValueError as error:
        raise InvalidInput(f"--{option} {text}: give numbers with commas, such as 0.1,0.3.") from error


def _parts(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _show(found: "Sweep", folder: "SweepFolder") -> None:
    from trainer.sweep.folder import PLOT, TABLE, state_of
    from trainer.text import spoken

    rows = []
    for number, result in enumerate(found.ranked, 1):
        point, error = result.point, result.auc_standard_error
        rows.append(
            (
                str(number) if result.is_sound else "",
                point.loss,
                f"{point.beta:g}",
                f"{point.learning_rate:g}",
                _figure(result.auc, ".3f") + (f" ± {error:.3f}" if error is not None else ""),
                _figure(result.margin, "+.2f"),
                _figure(result.liked_change, "+.2f"),
                _figure(result.z0, ".2f"),
                spoken(result.seconds),
                STATES[state_of(result)],
            )
        )
    print_table(HEADS, rows, empty="No point has been made.")
    if found.missing:
        say(f"{len(found.missing)} points are missing; the same command goes on with them.")
    say(found.verdict())
    files = " and ".join(
        str(folder.folder / name) for name in (TABLE, PLOT) if (folder.folder / name).exists()
    )
    say(f"Figures in nats: {files}")


def _figure(value: float | None, shown: str) -> str:
    return "" if value is None else format(value, shown)


def _apply(found: "Sweep", force: bool) -> None:
    """Write the best point that runs can train with; raises Conflict where nothing is decided."""
    from storage.settings import load_settings
    from storage.settings.toml_file import FILE, write_settings
    from trainer.sweep.folder import best_for_runs

    best = best_for_runs(found)
    if best is None:
        raise Conflict("Nothing was written: no point of kto or apo_zero_unpaired can win.", code="no_winner")
    doubts = found.doubts_of(best) or (f"{len(found.missing)} points are missing" if found.missing else None)
    if doubts and not force:
        raise Conflict(
            f"Nothing was written into {FILE}: {doubts}. --force writes the winner all the same.",
            code="not_enough_evidence",
        )
    if best != found.winner:
        say(f"Runs train on votes, not on pairs: the best of their losses is {best.point.name}.")
    values: dict[str, str | float] = {
        "beta": best.point.beta,
        "loss_type": best.point.loss,
        "learning_rate": best.point.learning_rate,
    }
    lines = write_settings(values)
    say(f"Wrote into {FILE.absolute()}: {'; '.join(lines)}.")
    say("A server that runs takes them at its next start.")
    if (epochs := load_settings().epochs) != 1:
        say(f"The points were trained for one epoch, and THUMBLOOP_EPOCHS is {epochs:g}.")
