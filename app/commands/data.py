"""`thumbloop backup`, `restore` and `erase-user`: the whole installation, and one person's part of it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from app.commands.terminal import ACTOR, opened_database, say
from storage.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from sqlmodel import Session

    from storage.tables import User


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
    name: str = typer.Argument(metavar="NAME_OR_ID", help="An account's name, or anybody's id."),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Erase a person: name, secrets, chats and votes. There is no way back."""
    from storage import erasure

    with opened_database() as (settings, database):
        with database.read() as session:
            user = _find(session, name)
        if not yes:
            _ask(user.name or user.id)
        with database.write() as session:
            report = erasure.erase_user(session, user.id, by=ACTOR)
        exports = erasure.remove_exports(settings.data_dir)
    say(f"{report.chats} chats, {report.messages} messages and {report.votes} votes of {name} are erased.")
    if exports:
        say("The exports in the data directory are removed; erase copies elsewhere yourself.")
    if report.affected_versions:
        say(
            f"Trained on some of it: {', '.join(report.affected_versions)}. `thumbloop train` retrains from "
            f"the base model without those votes; until another version is deployed, this one remembers."
        )


def quarantine(
    name: str = typer.Argument(metavar="NAME_OR_ID", help="An account's name, or anybody's id."),
    release: bool = typer.Option(False, "--release", help="Let their votes train and count again."),
    reason: str = typer.Option("", help="Why; kept in the audit log."),
) -> None:
    """Set a person's votes aside: they are kept, but train, count and export nothing."""
    from storage.quarantine import set_quarantine

    with opened_database() as (_, database), database.write() as session:
        user = _find(session, name)
        report = set_quarantine(session, user.id, not release, by=ACTOR, reason=reason)
    say(f"{name} is {'released' if release else 'quarantined'}; {report.votes} votes changed with it.")


def _find(session: "Session", name: str) -> "User":
    from storage.ids import is_id
    from storage.users import find_user, get_user

    user = find_user(session, name)
    if user is not None:
        return user
    if is_id(name):
        return get_user(session, name)
    raise NotFound(f"There is no user {name!r}; `thumbloop user list` shows the accounts.", field="name")


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("No terminal to ask for confirmation; use --yes.", field="yes")
    if not typer.confirm(f"Erase {name} and everything they wrote?"):
        raise InvalidInput("Nothing was erased.")
