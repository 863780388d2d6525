"""`thumbloop train`: its options; trains on this installation's votes, or on a file."""

from pathlib import Path
from typing import Any, Optional

import typer
from rich.markup import escape

from app.commands.options import Options, import_options, with_options
from app.commands.train_file import SETTINGS, option_of, refuse_launched, train_file
from app.commands.train_votes import train_on_votes
from storage.errors import InvalidInput
from storage.settings import Settings, describe

ON_A_FILE = "On a file"


def _setting_option(name: str) -> tuple[Any, Any]:
    field = Settings.model_fields[name]
    help = escape(f"THUMBLOOP_{name.upper()}: {describe(name)}")
    least = 0 if name == "training_processes" else None
    return Optional[field.annotation], typer.Option(None, option_of(name), min=least, help=help)  # noqa: UP045


FILE_OPTIONS: Options = {
    "out": (Path | None, typer.Option(None, help="Folder for the adapter.")),
    **{name: _setting_option(name) for name in SETTINGS},
    "max_rows": (int | None, typer.Option(None, min=1, help="Only the first rows of the file.")),
    "reference_cache": (
        str | None,
        typer.Option(
            None,
            metavar="DIR|none",
            help="Where to keep reference log-probabilities across trainings. Default: the data directory.",
        ),
    ),
    "report": (Path | None, typer.Option(None, help="Write figures as JSON.")),
    "order": (
        Path | None,
        typer.Option(None, help="Write the records of each micro-batch, as JSON lines."),
    ),
    "plan_only": (bool, typer.Option(False, "--plan-only", help="Print the training plan; train nothing.")),
    "skip_bad": (
        bool,
        typer.Option(False, "--skip-bad", help="Leave out bad records instead of refusing the file."),
    ),
    **import_options(),
}


@with_options("given", FILE_OPTIONS, ON_A_FILE)
def train(
    given: dict[str, Any],
    force: bool = typer.Option(False, "--force", help="Train even if the readiness check fails."),
    fresh: bool = typer.Option(
        False, "--fresh", help="Start from the base model even if THUMBLOOP_TRAINING_MODE=continue."
    ),
    follow: bool | None = typer.Option(
        None, "--follow/--no-follow", help="Show the progress until the run ends; the default."
    ),
    data: Path | None = typer.Option(
        None, help="Train on this file or folder alone: no database, no server.", rich_help_panel=ON_A_FILE
    ),
) -> None:
    """Request a training run and follow it; if a run is already active, follow that one.

    With --data and --out, train on a file instead. Options that are not given come from the settings.

    Exit codes: 0 succeeded, 1 failed, 3 skipped (not enough votes), 4 cancelled, 5 left running; on a file
    130 stopped.
    """
    if data is None:
        refuse_launched()
        for name in given:
            instead = f"; a run on votes takes THUMBLOOP_{name.upper()}" if name in SETTINGS else ""
            raise InvalidInput(
                f"{option_of(name)} is for training on a file: name one with --data{instead}.", field=name
            )
        train_on_votes(force=force, fresh=fresh, follow=follow is not False)
        return
    for name, misplaced in (("force", force), ("fresh", fresh), ("follow", follow is not None)):
        if misplaced:
            raise InvalidInput(
                f"{option_of(name)} is for runs on votes and has no meaning with --data; leave it out.",
                field=name,
            )
    if "plan_only" in given:
        for name in given.keys() & {"out", "report"}:
            raise InvalidInput(
                f"{option_of(name)} is for a training, and --plan-only trains nothing; leave one out.",
                field=name,
            )
    elif "out" not in given:
        raise InvalidInput(
            "--data needs --out, the folder for the adapter, or --plan-only to train nothing.", field="out"
        )
    train_file(data, given)
