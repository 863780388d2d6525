"""Commands about whose data stay and count: backup, restore, erasure, quarantine and the guard."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

import typer

from app.commands.doctor import check_deployed
from app.commands.terminal import ACTOR, confirm, opened_database, print_table, say, shown_time
from storage import backup as backups
from storage.db import audit
from storage.db.database import Database
from storage.errors import InvalidInput, NotFound
from storage.files.installation_key import load_secret
from storage.people.users import find_person
from storage.privacy import releases
from storage.privacy.quarantine import set_quarantine
from storage.registry.set_aside import newest_influence, people_set_aside
from storage.settings import load_settings
from storage.settings.guard import describe_guard

PERSON = typer.Argument(
    metavar="PERSON", help="An account's name, an id, a user_hash of an export, or ACCOUNT/USER."
)
guard_commands = typer.Typer(
    help="What keeps a few people from turning the model, and what it set aside.", no_args_is_help=True
)
REASON = typer.Option("", help="The reason, for the audit log.")
MESSAGE = typer.Option(None, "--message", help="Only the vote on the reply with this id.")
YES = typer.Option(False, "--yes", help="Do not ask for confirmation.")


def backup(file: str = typer.Argument(help="The archive to write; it must not exist.")) -> None:
    """Copy the database, the adapters and the secret into one archive. The server may keep running."""
    report = backups.back_up(load_settings(), Path(file))
    say(
        f"Wrote {report.files} files, {report.bytes} bytes, to {file}. Keep it as private as the data itself."
    )


def restore(file: str = typer.Argument(help="An archive of `thumbloop backup`.")) -> None:
    """Restore an archive into an empty THUMBLOOP_DATA_DIR (and an empty database)."""
    settings = load_settings()
    report = backups.restore(settings, Path(file))
    say(f"Restored {report.files} files, {report.bytes} bytes, into {settings.data_dir}.")
    deployed = check_deployed(settings)
    say(f"Deployed: {deployed.text}. {deployed.remedy}".strip())


def erase_user(name: str = PERSON, yes: bool = YES) -> None:
    """Erase a person: name, secrets, chats and votes. This cannot be undone."""
    from storage.privacy import erasure  # loads pyarrow

    with opened_database() as (settings, database):
        with database.read() as session:
            user = find_person(session, name, salt=load_secret(settings.data_dir))
        if not yes:
            _confirm(f"{user.name or user.id} and everything they wrote")
        with database.write() as session:
            report = erasure.erase_user(session, user.id, by=ACTOR)
        exports = erasure.remove_copies(database, settings.data_dir)
    say(f"Erased {report.chats} chats, {report.messages} messages and {report.votes} votes of {name}.")
    if exports:
        say(f"Removed exports: {', '.join(map(str, exports))}. Erase copies elsewhere yourself.")
    _say_affected(report.affected_versions)


def erase_before(
    date: str = typer.Argument(help="A day such as 2026-01-31, or a moment such as 2026-01-31T12:00+01:00."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only show what would be erased."),
    yes: bool = YES,
) -> None:
    """Erase the chats without a message since that day began (UTC). This cannot be undone."""
    from storage.privacy.erasure import count_before, forget_before

    moment = _moment(date)
    with opened_database() as (settings, database):
        with database.read() as session:
            found = count_before(session, moment)
        what = f"{found.chats} chats, {found.messages} messages and {found.votes} votes"
        if dry_run or not found.chats:
            say(f"{what} are from before {moment:%Y-%m-%d %H:%M} UTC; nothing was erased.")
            return
        if not yes:
            _confirm(f"{what} from before {moment:%Y-%m-%d %H:%M} UTC")
        report = forget_before(database, settings.data_dir, moment, by=ACTOR)
    say(f"Erased {report.chats} chats, {report.messages} messages and {report.votes} votes.")
    _say_affected(report.affected_versions)


def quarantine(
    name: str = PERSON,
    release: bool = typer.Option(False, "--release", help="End the quarantine."),
    reason: str = REASON,
) -> None:
    """Quarantine a person: their votes are kept, but not trained on, counted or exported."""
    with opened_database() as (settings, database), database.write() as session:
        user = find_person(session, name, salt=load_secret(settings.data_dir))
        report = set_quarantine(session, user.id, not release, by=ACTOR, reason=reason)
    say(f"{name} is {'released' if release else 'quarantined'}; this changed {report.votes} votes.")


def audit_log(
    action: str | None = typer.Option(None, help="Only this action, such as deploy."),
    actor: str | None = typer.Option(None, help="Only what this id, or part of the program, did."),
    target: str | None = typer.Option(None, help="Only what was done to this id or version."),
    limit: int = typer.Option(50, min=1, max=1000, help="The largest number of events."),
    as_json: bool = typer.Option(False, "--json", help="Write every event that matches as a line of JSON."),
) -> None:
    """Show who did what to what, newest first."""
    wanted = {"actor": actor, "action": action, "target": target}
    with opened_database() as (_, database):
        if as_json:
            for event in _all_events(database, wanted):
                typer.echo(json.dumps(asdict(event) | {"at": event.at.isoformat()}, ensure_ascii=False))
            return
        with database.read() as session:
            events = audit.list_events(session, **wanted, limit=limit)
    print_table(
        ("when (UTC)", "who", "did", "to", "details"),
        [
            (
                f"{event.at:%Y-%m-%d %H:%M}",
                event.name or event.actor,
                event.action,
                event.target,
                "; ".join(f"{name} {value}" for name, value in event.detail.items()),
            )
            for event in events
        ],
        empty="No event matches.",
    )


def _all_events(database: Database, wanted: Mapping[str, str | None]) -> Iterator[audit.Event]:
    """In pages, so that a long log is not held in memory."""
    most, before = 1000, None
    while True:
        with database.read() as session:
            page = audit.list_events(session, **wanted, limit=most, before=before)
        yield from page
        if len(page) < most:
            return
        before = page[-1].id


@guard_commands.command("show")
def show_guard() -> None:
    """Show the limits, what the newest run set aside, the most active people, and the releases."""
    with opened_database() as (settings, database):
        with database.read() as session:
            people = people_set_aside(session)
            influence = newest_influence(session)
            released = releases.open_releases(session)
        say(f"Limits: {describe_guard(settings)}.")
    print_table(
        ("person", "votes set aside", "reasons"),
        [
            (one.user_id, str(one.votes), "; ".join([*one.reasons, *(f"“{text}”" for text in one.phrases)]))
            for one in people
        ],
        empty="The newest run set no vote aside.",
    )
    if influence:
        say("\nThe most active people of the newest training, by their share of each kind's weight:")
        print_table(
            ("person", "up", "down", "rows"),
            [
                (one["user_id"], f"{one['up']:.0%}", f"{one['down']:.0%}", str(one["rows"]))
                for one in influence
            ],
        )
    if released:
        say("\nReleased:")
        print_table(
            ("person", "since", "what"),
            [(one.user_id, shown_time(one.created_at), one.message_id or "every vote") for one in released],
        )


@guard_commands.command("release")
def release_from_guard(
    name: str = PERSON,
    message: str | None = MESSAGE,
    undo: bool = typer.Option(False, "--undo", help="End the release."),
    reason: str = REASON,
) -> None:
    """Let a person's votes pass the guard, from the next run on."""
    with opened_database() as (settings, database), database.write() as session:
        user = find_person(session, name, salt=load_secret(settings.data_dir))
        what = "every vote" if message is None else f"the vote on {message}"
        if not undo:
            releases.release(session, user.id, message, by=ACTOR, reason=reason)
        else:
            found = [
                one for one in releases.open_releases(session, user_id=user.id) if one.message_id == message
            ]
            if not found:
                raise NotFound(f"{name} has no release of {what}; `thumbloop guard show` lists them.")
            releases.withdraw(session, found[0].id, by=ACTOR, reason=reason)
    say(f"The guard {'checks' if undo else 'lets pass'} {what} of {name} from the next run on.")


def _moment(text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a date such as 2026-01-31.", field="date") from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise InvalidInput(f"{text} is in the future; today's chats would be erased, too.", field="date")
    return moment.astimezone(UTC)


def _say_affected(versions: list[str]) -> None:
    if versions:
        say(
            f"Trained on some of it: {', '.join(versions)}. `thumbloop train --fresh` retrains from "
            f"the base model without those votes. Until you deploy another version, it remembers them."
        )


def _confirm(what: str) -> None:
    confirm(f"Erase {what}?", otherwise="Nothing was erased.")
