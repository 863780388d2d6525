"""`thumbloop backup`, `restore`, `erase-user`, `erase-before`, `quarantine`: backup and erasure of data."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.commands.terminal import ACTOR, opened_database, say
from storage.errors import InvalidInput

if TYPE_CHECKING:
    from datetime import datetime

PERSON = typer.Argument(
    metavar="PERSON", help="An account's name, an id, a user_hash of an export, or ACCOUNT/USER."
)


def backup(file: str = typer.Argument(help="The archive to write; it must not exist.")) -> None:
    """Copy the database, the adapters and the secret into one archive. The server may go on."""
    from storage.backup import back_up
    from storage.settings import load_settings

    report = back_up(load_settings(), Path(file))
    say(f"{report.files} files, {report.bytes} bytes, to {file}. Keep it as private as the data itself.")


def restore(file: str = typer.Argument(help="An archive of `thumbloop backup`.")) -> None:
    """Put an archive into an empty THUMBLOOP_DATA_DIR (and an empty database)."""
    from storage.backup import restore as put_in_place
    from storage.settings import load_settings

    settings = load_settings()
    report = put_in_place(settings, Path(file))
    say(f"{report.files} files, {report.bytes} bytes, restored into {settings.data_dir}.")


def erase_user(
    name: str = PERSON,
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Erase a person: name, secrets, chats and votes. There is no way back."""
    from storage.files.installation_key import load_secret
    from storage.people.users import find_person
    from storage.privacy import erasure

    with opened_database() as (settings, database):
        with database.read() as session:
            user = find_person(session, name, salt=load_secret(settings.data_dir))
        if not yes:
            _ask(f"{user.name or user.id} and everything they wrote")
        with database.write() as session:
            report = erasure.erase_user(session, user.id, by=ACTOR)
        exports = erasure.remove_copies(database, settings.data_dir)
    say(f"{report.chats} chats, {report.messages} messages and {report.votes} votes of {name} are erased.")
    if exports:
        say(
            f"Exports that are removed, too: {', '.join(map(str, exports))}. Erase copies elsewhere yourself."
        )
    _say_affected(report.affected_versions)


def erase_before(
    date: str = typer.Argument(help="A day such as 2026-01-31, or a moment such as 2026-01-31T12:00+01:00."),
    dry_run: bool = typer.Option(False, "--dry-run", help="Only say what would be erased."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Erase the chats that nobody has written in since that day began (UTC). There is no way back."""
    from storage.privacy.erasure import count_before
    from storage.privacy.retention import forget_before

    moment = _moment(date)
    with opened_database() as (settings, database):
        with database.read() as session:
            found = count_before(session, moment)
        what = f"{found.chats} chats, {found.messages} messages and {found.votes} votes"
        if dry_run or not found.chats:
            say(f"{what} are from before {moment:%Y-%m-%d %H:%M} UTC; nothing was erased.")
            return
        if not yes:
            _ask(f"{what} from before {moment:%Y-%m-%d %H:%M} UTC")
        report = forget_before(database, settings.data_dir, moment, by=ACTOR)
    say(f"{report.chats} chats, {report.messages} messages and {report.votes} votes are erased.")
    _say_affected(report.affected_versions)


def _moment(text: str) -> "datetime":
    from datetime import UTC, datetime

    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidInput(f"{text!r} is not a date such as 2026-01-31.", field="date") from error
    moment = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    if moment > datetime.now(UTC):
        raise InvalidInput(f"{text} is yet to come; chats of today would be erased, too.", field="date")
    return moment.astimezone(UTC)


def _say_affected(versions: list[str]) -> None:
    if versions:
        say(
            f"Trained on some of it: {', '.join(versions)}. `thumbloop train --fresh` retrains from "
            f"the base model without those votes; until another version is deployed, this one remembers."
        )


def quarantine(
    name: str = PERSON,
    release: bool = typer.Option(False, "--release", help="Let their votes train and count again."),
    reason: str = typer.Option("", help="Why; kept in the audit log."),
) -> None:
    """Set a person's votes aside: they are kept, but train, count and export nothing."""
    from storage.files.installation_key import load_secret
    from storage.people.users import find_person
    from storage.privacy.quarantine import set_quarantine

    with opened_database() as (settings, database), database.write() as session:
        user = find_person(session, name, salt=load_secret(settings.data_dir))
        report = set_quarantine(session, user.id, not release, by=ACTOR, reason=reason)
    say(f"{name} is {'released' if release else 'quarantined'}; {report.votes} votes changed with it.")


def _ask(what: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("No terminal to ask for confirmation; use --yes.", field="yes")
    if not typer.confirm(f"Erase {what}?"):
        raise InvalidInput("Nothing was erased.")
