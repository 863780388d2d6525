"""`thumbloop versions`, `deploy`, `rollback` and `canary`, and `evaluate` without questions.

A running server follows a deployment within a second.
"""

import typer

from app.commands.run_progress import RunProgress
from app.commands.terminal import ACTOR, opened_database, print_table, say, shown_time
from storage.chats.stats import VersionStats, canary_stats, difference_interval
from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.registry.canaries import count_chats, end_canary, start_canary, traffic
from storage.registry.model_versions import (
    deploy_version,
    deployed_version,
    deployments,
    get_version,
    list_versions,
    open_canary,
    reject_version,
    roll_back,
    roll_back_target,
)
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings
from trainer.launch.environment import prepare_process

canary_commands = typer.Typer(
    help="Try a version on a share of the new chats; `thumbloop deploy` promotes it.", no_args_is_help=True
)
VERSION = typer.Argument(help="A version, such as v2.")
WHY = typer.Option("Asked for.", help="The reason, for the record.")


def versions(
    history: bool = typer.Option(False, "--history", help="List which version was deployed when."),
) -> None:
    """List the model versions, newest first."""
    with opened_database() as (_, database), database.read() as session:
        if history:
            names = {version.id: version.name for version in list_versions(session)}
            times = [
                (shown_time(row.started_at), shown_time(row.ended_at), names[row.version_id], row.by, row.why)
                for row in deployments(session, limit=100)
            ]
            print_table(("from", "until", "version", "by", "why"), times)
            return
        answering = traffic(session)
        marks = {answering.deployed_id: "*", answering.canary_id: f"canary {answering.canary_share:.0%}"}
        rows = [
            (
                marks.get(version.id, ""),
                version.name,
                version.state,
                shown_time(version.created_at),
                version.reason or "",
            )
            for version in list_versions(session)
        ]
    print_table(
        ("deployed", "version", "state", "created", "reason"),
        rows,
        empty="There is no model version yet; `thumbloop serve` adds the base model as v1.",
    )


def evaluate_as_the_gate(version: str, against: str | None) -> None:
    """Compare a version's replies with another's, by default the deployed one's, and show the result."""
    prepare_process()
    from trainer.gate.evaluate import evaluate_version

    with opened_database() as (settings, database), RunProgress() as progress:
        verdict = evaluate_version(
            database, settings, version, against=against, report=progress.show_progress
        )
    found = verdict.measures.get("replies")
    if found:
        sides = {"base": found["base"], "compared with": found["deployed"], version: found["strengths"]["1"]}
        print_table(
            ("mean of its replies", *sides),
            [
                (name.replace("_", " "), *(f"{values[name]:.3g}" for values in sides.values()))
                for name in found["base"]
            ],
        )
    say(verdict.reason)


def deploy(version: str = VERSION, why: str = WHY) -> None:
    """Deploy a version: it answers from now on."""
    with opened_database() as (settings, database):
        with database.read() as session:
            _verify(settings, database, get_version(session, version))
        with database.write() as session:
            deployed = deploy_version(session, version, by=ACTOR, why=why)
    say(f"{deployed.name} is deployed.")


def reject(version: str = VERSION, why: str = WHY) -> None:
    """Decide against a version that the gate left to an admin: it is never served."""
    with opened_database() as (_, database), database.write() as session:
        rejected = reject_version(session, version, by=ACTOR, why=why)
        say(f"{rejected.name} is rejected.")


def rollback(why: str = WHY) -> None:
    """Go back to the version that was deployed before."""
    with opened_database() as (settings, database):
        with database.read() as session:
            _verify(settings, database, roll_back_target(session))
        with database.write() as session:
            deployed = roll_back(session, by=ACTOR, why=why)
    say(f"{deployed.name} is deployed again.")


@canary_commands.command("start")
def start(
    version: str = VERSION,
    share: float = typer.Option(0.1, help="Share of the new chats; above 0 and below 1."),
    why: str = WHY,
) -> None:
    """Start a canary, or change the share of the active one."""
    with opened_database() as (settings, database):
        with database.read() as session:
            _verify(settings, database, get_version(session, version))
        with database.write() as session:
            canary = start_canary(session, version, share=share, by=ACTOR, why=why)
            name = get_version(session, canary.version_id).name
    say(f"{name} answers {share:.0%} of the chats that begin from now on.")


@canary_commands.command("show")
def show() -> None:
    """Compare the canary with the deployed version."""

    def row(side: str, found: VersionStats) -> tuple[str, ...]:
        approval = "no votes" if found.approval is None else f"{found.approval:.0%}"
        interval = f"{found.interval.low:.0%} to {found.interval.high:.0%}"
        return (side, found.version, approval, interval, str(found.up), str(found.down), str(found.replies))

    with opened_database() as (_, database), database.read() as session:
        canary = open_canary(session)
        if canary is None:
            say("No canary is under way.")
            return
        tried, deployed = canary_stats(session, canary)
        chats = count_chats(session, canary)
    print_table(
        ("", "version", "approval", "95 % interval", "up", "down", "replies"),
        [row("canary", tried), row("deployed", deployed)],
    )
    difference = difference_interval(tried, deployed)
    if difference is not None:
        say(f"The canary's approval minus the other's: {difference.low:+.0%} to {difference.high:+.0%}.")
    say(
        f"It was given {chats} chats since {shown_time(canary.started_at)} "
        f"and gets {canary.share:.0%} of the new ones."
    )


@canary_commands.command("end")
def end(why: str = WHY) -> None:
    """End the canary: the deployed version answers its chats, too."""
    with opened_database() as (_, database), database.write() as session:
        canary = end_canary(session, by=ACTOR, why=why)
        tried, deployed = get_version(session, canary.version_id).name, deployed_version(session).name
        chats = count_chats(session, canary)
    say(f"The canary of {tried} has ended; {deployed} answers its {chats} chats from now on.")


def _verify(settings: Settings, database: Database, version: ModelVersion) -> None:
    """Raise ArtifactRefused unless the version's files are as published."""
    if version.path is not None:
        open_artifacts(settings, database).verify(version.path, version.files)
