"""`thumbloop pool`, `thumbloop judge` and `thumbloop bootstrap`."""

import asyncio
from collections.abc import Callable, Coroutine
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from app.commands.run_progress import RunProgress
from app.commands.terminal import confirm, print_table, say
from app.commands.train_file import STOPPED
from storage.db.database import Database, open_database
from storage.db.tables import TrainingRun
from storage.errors import InvalidInput
from storage.registry.model_versions import deployed_version, ensure_base
from storage.settings import Settings, load_settings
from trainer.judge.specs import FORM, is_own, name_of
from trainer.text import counted, spoken

if TYPE_CHECKING:
    from app.judge.conversations import Conversation
    from app.judge.expected import Expected
    from app.judge.work import Progress

Found = TypeVar("Found")
MODEL = f"A version of yours, such as v2, or {FORM}. Also ,at_once=8 ,temperature=0.7 ,price=IN/OUT and more."


def pool(
    out: Path = typer.Option(..., help="The file to write, as JSON lines."),
    models: list[str] = typer.Option([], "--model", help=f"{MODEL} May be given several times."),
    prompts: Path | None = typer.Option(
        None, help="A file or folder of conversations or prompts, in any form that `import` reads."
    ),
    from_chats: bool = typer.Option(
        False, "--from-chats", help="Instead: the chats here whose people let us train on them."
    ),
    limit: int | None = typer.Option(None, min=1, help="Only the first conversations, or the newest chats."),
    temperature: float = typer.Option(1.0, min=0, help="Of own versions."),
    max_tokens: int = typer.Option(256, min=1, help="Longest reply of own versions, in tokens."),
    samples: int = typer.Option(1, min=1, help="Replies of each model to each conversation."),
    seed: int = typer.Option(0, help="Seed of the replies."),
) -> None:
    """Let several models answer the last turn of each conversation.

    Replies are kept as they come. Ctrl-C stops, with exit code 130; the same command continues.
    """
    from app.judge.own_server import opened_servers
    from app.judge.pool import PoolPlan, fill_pool
    from app.judge.report import used

    if (prompts is None) != from_chats:
        raise InvalidInput(
            "Name a file with --prompts, or take --from-chats; one of the two.", field="prompts"
        )
    if not models:
        raise InvalidInput(f"Nobody would answer: name a --model. {MODEL}", field="model")
    settings = load_settings()
    plan = PoolPlan(_conversations(settings, prompts, limit), seed, samples)
    if not plan.conversations:
        raise InvalidInput("There is no chat yet whose person lets us train on it.", field="from_chats")
    if from_chats and not all(map(is_own, models)):
        say(f"{len(plan.conversations)} chats of people who let us train on them go to other servers.")

    async def run(progress: "Progress") -> tuple[int, list[tuple[str, dict[str, Any]]]]:
        sampling = {"temperature": temperature, "max_tokens": max_tokens}
        async with opened_servers(models, settings, _log(out), sampling) as servers:
            failed = await fill_pool(plan, servers, out, progress)
            return failed, [(server.spec.name, used(server)) for server in servers]

    failed, found = run_shown(run)
    show_used(found)
    if failed:
        say(f"{counted(failed, 'reply', 'replies')} failed for good; the file says why.")
    say(f"{len(plan.conversations)} conversations with replies: {out}")


def judge(
    file: Path = typer.Argument(help="A file of `thumbloop pool`."),
    judge: str = typer.Option(..., help=f"The judge: {FORM}; or a version of yours."),
    out: Path | None = typer.Option(None, help="The file to write. Default: FILE with .judged.jsonl."),
    rubric: str | None = typer.Option(
        None, help="A Jinja file, or the name of one that comes with Thumbloop. Default: overall, or pair."
    ),
    pairwise: bool = typer.Option(
        False, "--pairwise", help="Compare the replies of a conversation in pairs, in both orders."
    ),
    votes: int = typer.Option(1, min=1, help="How often the judge is asked about each."),
    seed: int = typer.Option(0, help="Seed of the order and of the verdicts."),
    pairs: Path | None = typer.Option(
        None, help="Write pairs of the best and the worst reply, as JSON lines."
    ),
    kto: Path | None = typer.Option(None, help="Write each rated reply as a row of KTO data, as JSON lines."),
    min_difference: float | None = typer.Option(
        None, min=0, help="Least difference of a pair. Default: a quarter of the scale."
    ),
    up_from: float | None = typer.Option(
        None, help="Scores from here on are good. Default: the top quarter."
    ),
    down_to: float | None = typer.Option(
        None, help="Scores up to here are bad. Default: the lowest quarter."
    ),
    store: bool = typer.Option(
        False, "--store", help="Import the rated replies, with the source judge:NAME."
    ),
) -> None:
    """Let a judge model rate the replies of a pool, and say how far to trust it.

    Verdicts are kept as they come. Ctrl-C stops, with exit code 130; the same command continues.
    """
    from app.judge.examples import kto_rows, pair_rows
    from app.judge.judge import JudgePlan, judge_pool
    from app.judge.own_server import opened_servers
    from app.judge.pool import write_lines
    from app.judge.store import store_rows  # loads pyarrow
    from trainer.judge.rubric import read_rubric

    if up_from is not None and down_to is not None and not down_to < up_from:
        raise InvalidInput(
            f"--up-from {up_from:g} is not above --down-to {down_to:g}: what lies between is left out.",
            field="up_from",
        )
    settings = load_settings()
    target = out or file.with_suffix(".judged.jsonl")
    plan = JudgePlan(read_rubric(rubric or ("pair" if pairwise else "overall")), pairwise, votes, seed)

    async def run(progress: "Progress") -> tuple[list[dict[str, Any]], dict[str, Any]]:
        async with opened_servers([judge], settings, _log(target), {"temperature": 0.0}, "judge") as servers:
            return await judge_pool(plan, file, servers[0], target, progress)

    rows, report = run_shown(run)
    show_report(report)
    if pairs is not None:
        found = list(pair_rows(rows, min_difference))
        write_lines(pairs, found)
        say(f"{counted(len(found), 'pair')}: {pairs}")
    examples = list(kto_rows(rows, up_from, down_to))
    if kto is not None:
        write_lines(kto, examples)
        up = sum(row["label"] for row in examples)
        say(f"KTO rows, {up} good and {len(examples) - up} bad: {kto}")
    if store:
        with closing(open_database(settings)) as database:
            imported = store_rows(database, examples, target.parent)
        say(f"{imported.accepted} rated replies were imported, {imported.duplicates} were there.")
    say(f"Verdicts: {target}")


def bootstrap(
    judge: str = typer.Option(..., help=f"The judge: {FORM}."),
    models: list[str] = typer.Option(
        [], "--model", help=f"{MODEL} May be given several times. Default: the deployed version."
    ),
    prompts: Path | None = typer.Option(
        None, help="A file or folder of prompts, in any form that `import` reads; otherwise our own 240."
    ),
    learn_from: int = typer.Option(150, min=1, help="Prompts whose rated replies become examples."),
    unseen: int = typer.Option(48, min=1, help="Other prompts, on which both versions are rated."),
    samples: int = typer.Option(2, min=1, help="Replies of each model to each prompt."),
    max_tokens: int = typer.Option(128, min=1, help="Longest reply of own versions, in tokens."),
    rubric: str = typer.Option("overall", help="A Jinja file, or the name of one that comes with Thumbloop."),
    seed: int = typer.Option(0, help="Seed of prompts and replies."),
    out: Path = typer.Option(Path("bootstrap"), help="Folder, new or to be continued."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask for confirmation."),
) -> None:
    """Make a first version without votes: replies, a judge's ratings, a training, and the judge once more.

    Shows its plan first. Ctrl-C stops, with exit code 130; the same command continues.
    """
    from app.commands.train_votes import follow_a_run
    from app.judge.bootstrap import Bootstrap, BootstrapPlan
    from trainer.judge.rubric import read_rubric
    from trainer.launch.environment import prepare_process

    prepare_process()
    settings = load_settings()
    with closing(open_database(settings)) as database, database.write() as session:
        ensure_base(session, settings.model)
        models = models or [deployed_version(session).name]
    plan = BootstrapPlan(
        judge, read_rubric(rubric), tuple(models), prompts, learn_from, unseen, samples, max_tokens, seed
    )
    work = Bootstrap(out, plan, settings)
    show_plan(work.expected(), models, judge, out)
    if not yes:
        confirm("Begin?", otherwise="Nothing was asked.")
    with RunProgress() as progress:

        def train(database: Database) -> TrainingRun:
            progress.stop()  # the run has a bar of its own
            try:
                return follow_a_run(settings, database, force=True, fresh=True)
            finally:
                progress.start()

        try:
            report = work.run(train, progress.show_progress)
        except KeyboardInterrupt:
            progress.stop()
            say("Stopped. The same command continues.")
            raise typer.Exit(STOPPED) from None
    print_table(
        ("version", "replies", "mean rating", "liked by the judge", "95 % interval"),
        [
            (
                name,
                str(one["replies"]),
                f"{one['mean']:.2f}",
                f"{one['liked']:.0%}",
                f"{one['low']:.0%} to {one['high']:.0%}",
            )
            for name, one in report["versions"].items()
        ],
    )
    say(f"The gate: {report['run']['reason']}")
    say(f"`thumbloop deploy {report['run']['version']}` deploys it. Report: {out / 'report.json'}")


def show_plan(expected: "Expected", models: list[str], judge: str, out: Path) -> None:
    cost = "" if expected.cost is None else f", which cost about {expected.cost:.2f}"
    pace = {"own versions" if one.spec.own else one.spec.name: one.spec for one in expected.shares}
    paces = ", ".join(f"{name} {spec.seconds:g} s ({spec.at_once} at once)" for name, spec in pace.items())
    say(
        f"Plan: {expected.calls // 2} replies of {', '.join(map(name_of, models))} and of "
        f"the new version, each rated by {name_of(judge)}: {expected.calls} calls with about "
        f"{expected.tokens:,} tokens{cost}; one training."
    )
    say(
        f"Time: about {spoken(expected.seconds)} and the training, if a call takes {paces}. "
        f"`seconds=` after a server is more exact, and the time left is shown as soon as some have answered."
    )
    say(f"What is done already in {out} is not done again.")


def run_shown(run: Callable[["Progress"], Coroutine[Any, Any, Found]]) -> Found:
    """Run it with a progress bar; Ctrl-C ends the command with exit code 130."""
    with RunProgress() as progress:
        try:
            return asyncio.run(run(progress.show_progress))
        except KeyboardInterrupt:
            progress.stop()
            say("Stopped. The same command continues.")
            raise typer.Exit(STOPPED) from None


def show_used(found: list[tuple[str, dict[str, Any]]]) -> None:
    """What was asked of each server, with its faults."""
    print_table(
        ("model", "calls", "tokens in", "tokens out", "cost", "faults, retried ones included"),
        [
            (
                name,
                str(one["calls"]),
                str(one["prompt_tokens"]),
                str(one["completion_tokens"]),
                f"{one['cost']:.4f}" if "cost" in one else "",
                ", ".join(f"{count} {kind}" for kind, count in one["faults"].items()),
            )
            for name, one in found
        ],
    )


def show_report(report: dict[str, Any]) -> None:
    """The judge's means by author, its biases, and its agreement with people."""
    low, high = report["scale"] or (0, 0)
    print_table(
        ("author", "replies", f"mean of {low:g} to {high:g}", ""),
        [
            (author, str(one["replies"]), f"{one['mean']:.2f}", "the judge's family" * one["own_family"])
            for author, one in report["authors"].items()
        ],
        empty="Nothing was rated.",
    )
    show_used([(report["judge"], report["used"])])
    if report.get("first_wins") is not None:
        low, high = report["first_wins_interval"]
        say(
            f"Of the answers about pairs {report['first_wins']:.0%} ({low:.0%} to {high:.0%}) are for the "
            f"first reply; {report['ties']} of {report['comparisons']} comparisons are ties."
        )
    if report["length_correlation"] is not None:
        say(f"Score and length: Spearman's ρ {report['length_correlation']:+.2f}.")
    for name, what in (("unparsable", "verdicts could not be read"), ("errors", "got no answer")):
        if report[name]:
            say(f"{report[name]} {what}, and count as none.")
    people = report["people"]
    if people is not None:
        low, high = people["accuracy_interval"]
        kappa = "undefined" if people["kappa"] is None else f"{people['kappa']:.2f}"
        between = (
            ""
            if people["kappa_interval"] is None
            else " ({:.2f} to {:.2f})".format(*people["kappa_interval"])
        )
        say(
            f"It agrees with people on {people['accuracy']:.0%} ({low:.0%} to {high:.0%}) of "
            f"{people['replies']} replies; Cohen's κ {kappa}{between}."
        )


def _conversations(settings: Settings, prompts: Path | None, limit: int | None) -> list["Conversation"]:
    from app.judge.conversations import chat_conversations, read_conversations

    if prompts is not None:
        return read_conversations(prompts)[:limit]
    with closing(open_database(settings)) as database, database.read() as session:
        return chat_conversations(session, limit)


def _log(out: Path) -> Path:
    """The log of a server that is started for own versions."""
    return out.with_suffix(".server.log")
