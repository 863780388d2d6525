"""`thumbloop simulate`: simulated people vote by a hidden taste; shows whether the model learns it."""

from pathlib import Path
from typing import Any

import typer

from app.commands.run_progress import RunProgress
from app.commands.terminal import print_table, say
from app.commands.train_file import STOPPED
from app.simulation.tastes import TASTES
from storage.errors import InvalidInput
from storage.settings import load_settings
from trainer.launch.environment import prepare_process

# Settings under which nothing happens unasked and nobody waits for a limit.
SIMULATED = {"schedule": "", "auth": "anonymous", "max_replies_per_minute": 0, "database_url": ""}


def simulate(
    taste: str = typer.Option(
        "brief",
        help=f"{', '.join(TASTES)}, or a function as file.py:function.",
    ),
    votes: int = typer.Option(200, min=2, help="Votes in all."),
    cycles: int = typer.Option(1, min=1, help="Trainings, each after an equal number of votes."),
    out: Path | None = typer.Option(
        None, help="Folder of the simulation, new or to be continued. Default: simulation-TASTE."
    ),
    people: int = typer.Option(20, min=1, help="Simulated people."),
    skew: float = typer.Option(1.0, min=0, help="0: all are equally active. 1: the k-th 1/k as much."),
    noise: float = typer.Option(0.05, min=0, max=1, help="Share of the votes that are wrong."),
    up_share: float | None = typer.Option(
        None, min=0.01, max=0.99, help="Share of thumbs up among the votes. Default: as liked."
    ),
    measured: int = typer.Option(48, min=1, help="Unseen prompts on which each version is measured."),
    samples: int = typer.Option(2, min=1, help="Replies to each of them."),
    max_tokens: int = typer.Option(128, min=8, help="Longest reply, in tokens."),
    prompts: Path | None = typer.Option(
        None, help="JSONL file with a `prompt` a line; otherwise our own 240."
    ),
    seed: int = typer.Option(0, help="Seed of people, prompts and measured replies."),
    coherence_model: str | None = typer.Option(
        None, help="Folder or hub id of a model that had no part in this; it says how probable replies are."
    ),
) -> None:
    """Run the whole loop with simulated people and measure what the model learns.

    A server of its own, in the folder, replies, trains and deploys with the current settings.

    Ctrl-C stops, with exit code 130; the same command continues.
    """
    if votes < cycles:
        raise InvalidInput(f"--cycles {cycles}: more trainings than votes ({votes}).")
    folder = out or Path(f"simulation-{Path(taste).name.replace(':', '-')}")
    prepare_process()
    from app.simulation.picture import draw_curve
    from app.simulation.simulation import Simulation, SimulationPlan

    file = str(prompts.absolute()) if prompts else None
    plan = SimulationPlan(
        *(taste, votes, cycles, people, skew, noise, up_share, measured, samples, file, seed)
    )
    settings = load_settings(
        **load_settings().model_dump(exclude_unset=True)
        | SIMULATED
        | {"data_dir": folder.absolute() / "data", "max_new_tokens": max_tokens}
    )
    with RunProgress() as progress:
        try:
            report = Simulation(folder, plan, settings, progress.show_progress).run(coherence_model)
        except KeyboardInterrupt:
            progress.stop()
            say("Stopped. The same command continues.")
            raise typer.Exit(STOPPED) from None
    _show(report)
    drawn = draw_curve(report, folder / "curve.png")
    say(f"Report: {folder / 'report.json'}")
    say(
        f"Picture: {folder / 'curve.png'}"
        if drawn
        else "No picture: `pip install 'thumbloop[plot]'` draws it."
    )


def _show(report: dict[str, Any]) -> None:
    def cells(point: dict[str, Any]) -> tuple[str, ...]:
        found = point["measures"]
        return (
            point["version"],
            str(point["votes"]),
            f"{found['liked']:.0%} ({found['low']:.0%} to {found['high']:.0%})",
            f"{found['words']:.0f}",
            f"{found['finished']:.0%}",
            f"{found['repeated_4grams']:.1%}",
            f"{found['log_probability']:.2f}",
            *([f"{found['coherence']:.2f}"] if "coherence" in found else []),
            point["reason"],
        )

    points = [point for point in report["points"] if point["measures"]]
    heads = ["version", "votes", "liked", "words", "finished", "repeated 4-grams", "nats a token"]
    if "coherence" in points[0]["measures"]:
        heads.append("by the other model")
    print_table((*heads, ""), [cells(point) for point in points])
