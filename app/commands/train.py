"""`thumbloop train`: its options; trains on this installation's votes, or on a file."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import typer

from app.commands.feedback import with_import_options
from app.commands.train_file import option_of, refuse_launched, train_file
from app.commands.train_votes import train_on_votes
from storage.errors import InvalidInput
from storage.imports.formats import NO_OPTIONS, ImportOptions

ON_A_FILE = "On a file"


@with_import_options(ON_A_FILE)
def train(
    force: bool = typer.Option(False, "--force", help="Train even where the readiness check says no."),
    fresh: bool = typer.Option(
        False, "--fresh", help="Begin at the base model, also where THUMBLOOP_TRAINING_MODE=continue."
    ),
    follow: bool | None = typer.Option(
        None, "--follow/--no-follow", help="Show the progress until it is over; the default."
    ),
    data: Path | None = typer.Option(
        None, help="Train on this file or folder alone: no database, no server.", rich_help_panel=ON_A_FILE
    ),
    out: Path | None = typer.Option(None, help="Folder for the adapter.", rich_help_panel=ON_A_FILE),
    engine: Literal["shared-prefix", "trl"] | None = typer.Option(
        None, help="THUMBLOOP_ENGINE of this training.", rich_help_panel=ON_A_FILE
    ),
    model: str | None = typer.Option(
        None, help="THUMBLOOP_MODEL: a hub id or a folder.", rich_help_panel=ON_A_FILE
    ),
    beta: float | None = typer.Option(None, help="THUMBLOOP_BETA.", rich_help_panel=ON_A_FILE),
    learning_rate: float | None = typer.Option(
        None, help="THUMBLOOP_LEARNING_RATE.", rich_help_panel=ON_A_FILE
    ),
    batch_size: int | None = typer.Option(None, help="THUMBLOOP_BATCH_SIZE.", rich_help_panel=ON_A_FILE),
    max_length: int | None = typer.Option(None, help="THUMBLOOP_MAX_LENGTH.", rich_help_panel=ON_A_FILE),
    lora_rank: int | None = typer.Option(None, help="THUMBLOOP_LORA_RANK.", rich_help_panel=ON_A_FILE),
    epochs: float | None = typer.Option(None, help="THUMBLOOP_EPOCHS.", rich_help_panel=ON_A_FILE),
    seed: int | None = typer.Option(None, help="THUMBLOOP_SEED.", rich_help_panel=ON_A_FILE),
    tuning: Literal["lora", "qlora", "full"] | None = typer.Option(
        None, help="THUMBLOOP_TUNING: what is trained.", rich_help_panel=ON_A_FILE
    ),
    precision: Literal["auto", "fp32", "bf16", "fp16"] | None = typer.Option(
        None, help="THUMBLOOP_PRECISION.", rich_help_panel=ON_A_FILE
    ),
    training_processes: int | None = typer.Option(
        None,
        "--processes",
        min=0,
        help="THUMBLOOP_TRAINING_PROCESSES: how many train together.",
        rich_help_panel=ON_A_FILE,
    ),
    checkpointing: Literal["auto", "on", "off"] | None = typer.Option(
        None,
        help="THUMBLOOP_GRADIENT_CHECKPOINTING: compute activations again, for less memory.",
        rich_help_panel=ON_A_FILE,
    ),
    max_rows: int | None = typer.Option(
        None, min=1, help="Only the first rows of the file.", rich_help_panel=ON_A_FILE
    ),
    reference_cache: str | None = typer.Option(
        None,
        metavar="DIR|none",
        help="Where reference log-probabilities are kept across trainings; the data directory if not given.",
        rich_help_panel=ON_A_FILE,
    ),
    report: Path | None = typer.Option(None, help="Write figures as JSON.", rich_help_panel=ON_A_FILE),
    order: Path | None = typer.Option(
        None, help="Write which records each micro-batch has, as JSON lines.", rich_help_panel=ON_A_FILE
    ),
    plan_only: bool = typer.Option(
        False, "--plan-only", help="Say what would be trained on; train nothing.", rich_help_panel=ON_A_FILE
    ),
    skip_bad: bool = typer.Option(
        False, "--skip-bad", help="Leave out bad records, do not refuse the file.", rich_help_panel=ON_A_FILE
    ),
    options: ImportOptions = NO_OPTIONS,
) -> None:
    """Request a training run and follow it; if one is under way, follow that one.

    With --data and --out the engine trains on a file instead; what is not given is as the settings say.

    Exit codes: 0 succeeded, 1 failed, 3 skipped (not enough votes), 4 cancelled, 5 left running; on a file
    130 stopped.
    """
    how = {
        "engine": engine,
        "model": model,
        "beta": beta,
        "learning_rate": learning_rate,
        "batch_size": batch_size,
        "max_length": max_length,
        "lora_rank": lora_rank,
        "epochs": epochs,
        "seed": seed,
        "tuning": tuning,
        "precision": precision,
        "training_processes": training_processes,
        "gradient_checkpointing": checkpointing,
    }
    of_files = {"out": out, **how, "max_rows": max_rows, "reference_cache": reference_cache}
    of_files |= {"report": report, "order": order, "plan_only": plan_only or None}
    of_files |= {"skip_bad": skip_bad or None, **dict(options)}
    if data is None:
        refuse_launched()
        _refuse_without_a_file(of_files, settings=how)
        train_on_votes(force=force, fresh=fresh, follow=follow is not False)
        return
    _refuse_with_a_file({"force": force or None, "fresh": fresh or None, "follow": follow})
    if out is None and not plan_only:
        raise InvalidInput(
            "--data needs --out, the folder for the adapter, or --plan-only to train nothing.", field="out"
        )
    if plan_only:
        _refuse_without_training({"out": out, "report": report})
    train_file(
        data,
        out,
        settings=how,
        reference_cache=reference_cache,
        report=report,
        order=order,
        max_rows=max_rows,
        skip_bad=skip_bad,
        options=options,
    )


def _refuse_without_a_file(given: Mapping[str, Any], *, settings: Iterable[str]) -> None:
    for name, value in given.items():
        if value is not None:
            instead = f"; a run on votes takes THUMBLOOP_{name.upper()}" if name in settings else ""
            raise InvalidInput(
                f"{option_of(name)} is for training on a file: name one with --data{instead}.", field=name
            )


def _refuse_with_a_file(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise InvalidInput(
                f"{option_of(name)} is for runs on votes and has no meaning with --data; leave it out.",
                field=name,
            )


def _refuse_without_training(given: Mapping[str, Any]) -> None:
    for name, value in given.items():
        if value is not None:
            raise InvalidInput(
                f"{option_of(name)} is for a training, and --plan-only trains nothing; leave one out.",
                field=name,
            )
