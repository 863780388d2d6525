"""`thumbloop demo`: a new data directory with a simulated month, and a server on it."""

import logging
import os
import shutil
import tempfile
from pathlib import Path

import typer

from app.commands.run_progress import RunProgress
from app.commands.serve import serve
from app.commands.terminal import say
from app.simulation.command import SIMULATED
from storage.errors import Conflict
from storage.settings import load_settings
from trainer.launch.environment import prepare_process


def demo(
    folder: Path = typer.Argument(Path("demo"), help="The new data directory."),
    start: bool = typer.Option(True, "--serve/--no-serve", help="Start a server on it at the end."),
) -> None:
    """Fill a new data directory with a simulated month, and serve it.

    People, votes, dates and replies are simulated, and each page says so. The trainings are real, but short.
    """
    folder = folder.absolute()
    again = f"`THUMBLOOP_DATA_DIR={folder} thumbloop serve`"
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Conflict(
            f"{folder} is not empty, and a demonstration needs a new folder: name another one. If it holds a "
            f"demonstration already, {again} serves it.",
            field="folder",
        )
    prepare_process()
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Renamed at the end, so that a demonstration is there as a whole or not at all.
    unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        _fill(unfinished)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
    if not start:
        say(f"A simulated month is in {folder}. {again} serves it.")
        return
    os.environ |= {"THUMBLOOP_DATA_DIR": str(folder), "THUMBLOOP_DATABASE_URL": ""}
    serve()


def _fill(folder: Path) -> None:
    from app.simulation.demo import Month
    from storage.db.database import open_database
    from trainer.model.base_model import resolve

    settings = load_settings(**SIMULATED | {"data_dir": folder})
    logging.getLogger("trainer").setLevel(logging.INFO)  # for the logs of the trainings
    with RunProgress() as progress:
        progress.show_progress({"phase": "loading the model"})
        resolve(settings, say)
        database = open_database(settings)
        try:
            Month(database, settings, progress.show_progress).live()
        finally:
            database.close()
