"""`thumbloop backup`, `restore` and `erase-user`: the whole installation, and one person's part of it."""

import sys
from pathlib import Path

import typer

from app.commands.terminal import ACTOR, opened_database, say
from storage.errors import InvalidInput


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
    name: str = typer.Argument(
        metavar="PERSON", help="An account's name, an id, or a user_hash of an export."
    ),
    yes: bool = typer.Option(False, "--yes", help="Do not ask."),
) -> None:
    """Erase a person: name, secrets, chats and votes. There is no way back."""
    from storage import erasure
    from storage.secret import load_secret
    from storage.users import find_person

    with opened_database() as (settings, database):
        with database.read() as session:
            user = find_person(session, name, salt=load_secret(settings.data_dir))
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


def _ask(name: str) -> None:
    if not sys.stdin.isatty():
        raise InvalidInput("No terminal to ask for confirmation; use --yes.", field="yes")
    if not typer.confirm(f"Erase {name} and everything they wrote?"):
        raise InvalidInput("Nothing was erased.")
