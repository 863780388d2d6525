"""`thumbloop evaluate`: as the gate judges a version, or by questions of two turns and a judge."""

from pathlib import Path
from typing import Any

import typer

from app.commands.terminal import say
from app.commands.versions import evaluate_as_the_gate
from storage.errors import InvalidInput
from storage.files.data_dir import make_data_dir
from storage.registry.evaluations import EVALUATIONS, PICTURE, REPORT
from storage.settings import load_settings

SERVER = "NAME=URL,MODEL or NAME=URL,KEY,MODEL"
PANEL = "With --questions"


def evaluate(
    versions: list[str] = typer.Argument(
        metavar="VERSION", help=f"A version, such as v2. With --questions any number, also {SERVER}."
    ),
    against: str | None = typer.Option(None, help="The version to compare with. Default: the deployed one."),
    questions: str | None = typer.Option(
        None,
        help="Instead, let a judge rate replies to questions of two turns: `own` (80 of ours), or a JSONL "
        "file in MT-Bench's format.",
    ),
    judge: str | None = typer.Option(
        None, help=f"The judge: {SERVER}; or a version of yours.", rich_help_panel=PANEL
    ),
    baseline: str | None = typer.Option(
        None, help="Compare each reply with this version's, too, in both orders.", rich_help_panel=PANEL
    ),
    out: Path | None = typer.Option(
        None,
        help="Folder, new or to be continued. Default: one in the data directory.",
        rich_help_panel=PANEL,
    ),
    max_tokens: int | None = typer.Option(
        None, min=1, help="Longest reply of own versions. Default: 256.", rich_help_panel=PANEL
    ),
    seed: int | None = typer.Option(
        None, help="Seed of the replies and the verdicts. Default: 0.", rich_help_panel=PANEL
    ),
) -> None:
    """Sample replies of a version and compare them with the deployed version's, as the gate does.

    Changes nothing. Takes minutes on a CPU.

    With --questions, Ctrl-C stops, with exit code 130, and the same command continues.
    """
    more = {"judge": judge, "baseline": baseline, "out": out, "max-tokens": max_tokens, "seed": seed}
    if questions is None:
        given = [f"--{name}" for name, value in more.items() if value is not None]
        if given or len(versions) > 1:
            what = given[0] if given else "More than one version"
            raise InvalidInput(f"{what} needs questions: add --questions own, or a file.", field="questions")
        evaluate_as_the_gate(versions[0], against)
        return
    if against is not None:
        raise InvalidInput("--against is without --questions; use --baseline.", field="against")
    if judge is None:
        raise InvalidInput(f"Nobody would rate the replies: add --judge {SERVER}.", field="judge")
    _evaluate_by_questions(versions, questions, judge, baseline, out, max_tokens or 256, seed or 0)


def _evaluate_by_questions(
    versions: list[str],
    given: str,
    judge: str,
    baseline: str | None,
    out: Path | None,
    max_tokens: int,
    seed: int,
) -> None:
    from app.judge.command import run_shown, show_used
    from app.judge.own_server import opened_servers
    from app.judge.report import used
    from app.judge.two_turns.evaluation import Evaluation
    from app.judge.two_turns.picture import draw_scores
    from app.judge.two_turns.plan import Plan
    from app.judge.two_turns.questions import read_questions
    from app.judge.two_turns.report import REPLIES, evaluate_in, finished_report
    from app.judge.two_turns.table import show
    from app.judge.work import Progress

    settings = load_settings()
    plan = Plan.of(read_questions(given), versions, baseline, judge=judge, max_tokens=max_tokens, seed=seed)
    folder = out or settings.data_dir / EVALUATIONS / plan.folder_name
    asked: list[tuple[str, dict[str, Any]]] = []

    async def run(progress: Progress) -> dict[str, Any]:
        if out is None:
            make_data_dir(settings.data_dir)
        folder.mkdir(parents=True, exist_ok=True)
        own = {"max_tokens": max_tokens}
        wanted = [*plan.versions, judge]
        async with opened_servers(wanted, settings, folder / "server.log", own) as servers:
            evaluation = Evaluation(plan, servers[:-1], servers[-1])
            report = await evaluate_in(folder, evaluation, progress)
            asked.extend((server.spec.name, used(server)) for server in servers)
            return report

    report = finished_report(folder, plan) or run_shown(run)
    show(report)
    if asked:
        show_used(asked)
    drawn = draw_scores(report, folder / PICTURE)
    say(f"Report: {folder / REPORT}")
    say(f"Replies and verdicts: {folder / REPLIES}")
    say(f"Picture: {folder / PICTURE}" if drawn else "No picture: `pip install 'thumbloop[plot]'` draws it.")
