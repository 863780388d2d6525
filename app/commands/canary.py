"""`thumbloop canary start`, `show` and `end`: a running server follows within a second."""

import typer

from app.commands.terminal import ACTOR, opened_database, print_table, say, shown_time

canary_commands = typer.Typer(
    help="Try a version on a share of the new chats; `thumbloop deploy` promotes it.", no_args_is_help=True
)

WHY = typer.Option("Asked for.", help="The reason, for the record.")


@canary_commands.command("start")
def start(
    version: str = typer.Argument(help="A version, such as v2."),
    share: float = typer.Option(0.1, help="Of the chats that begin from now on; above 0 and below 1."),
    why: str = WHY,
) -> None:
    """Try a version beside the deployed one, or change the share of the one that is tried."""
    from app.commands.versions import verify
    from storage.registry.canaries import start_canary
    from storage.registry.model_versions import get_version

    with opened_database() as (settings, database):
        with database.read() as session:
            verify(settings, get_version(session, version))
        with database.write() as session:
            canary = start_canary(session, version, share=share, by=ACTOR, why=why)
            name = get_version(session, canary.version_id).name
    say(f"{name} answers {share:.0%} of the chats that begin from now on.")


@canary_commands.command("show")
def show() -> None:
    """How the canary does beside the deployed version."""
    from storage.chats.stats import VersionStats, canary_stats, difference_interval
    from storage.registry.canaries import count_chats
    from storage.registry.model_versions import open_canary

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
        empty="",
    )
    difference = difference_interval(tried, deployed)
    if difference is not None:
        say(f"The canary's approval minus the other's: {difference.low:+.0%} to {difference.high:+.0%}.")
    say(
        f"Of the chats that began since {shown_time(canary.started_at)}, {chats} were given to it; "
        f"it gets {canary.share:.0%} of the new ones."
    )


@canary_commands.command("end")
def end(why: str = WHY) -> None:
    """Let the deployed version answer the canary's chats, too."""
    from storage.registry.canaries import count_chats, end_canary
    from storage.registry.model_versions import deployed_version, get_version

    with opened_database() as (_, database), database.write() as session:
        canary = end_canary(session, by=ACTOR, why=why)
        tried, deployed = get_version(session, canary.version_id).name, deployed_version(session).name
        chats = count_chats(session, canary)
    say(f"The canary of {tried} is over; {deployed} answers its {chats} chats from now on.")
