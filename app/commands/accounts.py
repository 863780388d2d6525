"""`thumbloop user`, `token` and `admin-link`: accounts, API tokens and sign-in links."""

import sys
from datetime import timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

import typer
from rich.prompt import Prompt

from app.commands.terminal import ACTOR, opened_database, print_table, say, shown_time
from storage.errors import BadSetting, InvalidInput, NotFound

if TYPE_CHECKING:
    from sqlmodel import Session

user_commands = typer.Typer(no_args_is_help=True, help="Accounts: create, list, password, role, disable.")
token_commands = typer.Typer(no_args_is_help=True, help="API tokens: create, list, revoke.")
ADMIN = "admin"  # the account that admin links sign in to
LINK_LIFE = timedelta(hours=24)


class Role(StrEnum):
    admin = "admin"
    user = "user"


ROLE = typer.Option(Role.user, help="admin: may also train, deploy and export.")
PASSWORD_STDIN = typer.Option(False, "--password-stdin", help="Read the password from standard input.")


@user_commands.command("create")
def create_user(name: str, role: Role = ROLE, password_stdin: bool = PASSWORD_STDIN) -> None:
    """Add an account; asks for its password."""
    from storage.db import audit
    from storage.people import users

    with opened_database() as (_, database):
        password = _ask_password(password_stdin)
        with database.write() as session:
            user = users.create_user(session, name, role=role.value, password=password)
            audit.record(session, ACTOR, "create user", user.id, role=role.value)
    say(f"{role.value} {name} added.")


@user_commands.command("list")
def list_users() -> None:
    """List the accounts."""
    from storage.people import users

    with opened_database() as (_, database), database.read() as session:
        rows = [
            (
                user.name or "",
                user.role,
                "disabled" if user.disabled else "active",
                shown_time(user.created_at),
            )
            for user in users.list_users(session)
        ]
    print_table(("name", "role", "state", "added"), rows, empty="There are no accounts yet.")


@user_commands.command("password")
def set_password(name: str, password_stdin: bool = PASSWORD_STDIN) -> None:
    """Change the password of an account."""
    from storage.db import audit
    from storage.people import users

    with opened_database() as (_, database):
        with database.read() as session:
            user_id = _user_id(session, name)
        password = _ask_password(password_stdin)
        with database.write() as session:
            users.set_password(session, user_id, password)
            audit.record(session, ACTOR, "set password", user_id)
    say(f"The password of {name} is changed.")


@user_commands.command("role")
def set_role(name: str, role: Role) -> None:
    """Make an account an admin, or an ordinary user."""
    from storage.db import audit
    from storage.people import users

    with opened_database() as (_, database), database.write() as session:
        user_id = _user_id(session, name)
        users.set_role(session, user_id, role.value)
        audit.record(session, ACTOR, "set role", user_id, role=role.value)
    say(f"{name} is {role.value} now.")


@user_commands.command("disable")
def disable_user(
    name: str, undo: bool = typer.Option(False, "--undo", help="Let the account in again.")
) -> None:
    """Shut an account out: its password, sessions and tokens stop working. Its votes stay."""
    from storage.db import audit
    from storage.people import users

    with opened_database() as (_, database), database.write() as session:
        user_id = _user_id(session, name)
        users.set_disabled(session, user_id, not undo)
        audit.record(session, ACTOR, "enable user" if undo else "disable user", user_id)
    say(f"{name} is {'let in again' if undo else 'disabled'}.")


@token_commands.command("create")
def create_token(
    name: str = typer.Argument(help="The program it is for; its account of this name is made if need be."),
    role: Role = ROLE,
    plain: bool = typer.Option(False, "--plain", help="Print the token alone, for scripts."),
) -> None:
    """Make an API token. It is shown once and stored nowhere."""
    from storage.db import audit
    from storage.people import tokens, users

    with opened_database() as (_, database), database.write() as session:
        user = users.ensure_user(session, name, role.value)
        token, secret = tokens.create_token(session, user.id, name=name)
        audit.record(session, ACTOR, "create token", token.id, user=user.id)
    if plain:
        typer.echo(secret)
    else:
        say(f"Token of {role.value} {name}, shown this once:\n{secret}")
        say("Send it as the header `Authorization: Bearer …`.")


@token_commands.command("list")
def list_tokens() -> None:
    """List the API tokens; what they are is not stored, only how they begin."""
    from storage.people import tokens, users

    with opened_database() as (_, database), database.read() as session:
        rows = [
            (
                token.id,
                token.name,
                users.get_user(session, token.user_id).role,
                f"{token.prefix}…",
                "revoked" if token.revoked_at else "active",
                shown_time(token.created_at),
            )
            for token in tokens.list_tokens(session)
        ]
    print_table(("id", "name", "role", "begins", "state", "made"), rows, empty="There are no API tokens yet.")


@token_commands.command("revoke")
def revoke_token(
    token_id: str = typer.Argument(metavar="ID", help="As `thumbloop token list` shows it."),
) -> None:
    """End an API token at once."""
    from storage.db import audit
    from storage.people import tokens

    with opened_database() as (_, database), database.write() as session:
        tokens.revoke_token(session, token_id)
        audit.record(session, ACTOR, "revoke token", token_id)
    say(f"Token {token_id} is revoked.")


def admin_link() -> None:
    """Print a new link to the admin page. It signs in once, within a day."""
    with opened_database() as (settings, database):
        if settings.port == 0:
            raise BadSetting("With THUMBLOOP_PORT=0 only the server knows its port; set one.", field="port")
        with database.write() as session:
            link = new_admin_link(session, page_address(settings.host, settings.port))
    say(link)


def new_admin_link(session: "Session", address: str) -> str:
    """A one-time link that signs in to the account `admin`; creates the account if it is missing."""
    from storage.db import audit
    from storage.people import tokens, users

    user = users.ensure_user(session, ADMIN, "admin")
    token, secret = tokens.create_token(session, user.id, name="admin link", kind="login", ttl=LINK_LIFE)
    audit.record(session, ACTOR, "create admin link", token.id)
    return f"{address}/admin?token={secret}"


def page_address(host: str, port: int) -> str:
    """The URL at which a browser on this machine reaches a server that listens on `host`."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    reachable = everywhere.get(host, host)
    return f"http://[{reachable}]:{port}" if ":" in reachable else f"http://{reachable}:{port}"


def _user_id(session: "Session", name: str) -> str:
    from storage.people import users

    user = users.find_user(session, name)
    if user is None:
        raise NotFound(f"There is no user {name!r}; `thumbloop user list` shows them all.", field="name")
    return user.id


def _ask_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise InvalidInput("No terminal to ask for the password; use --password-stdin.", field="password")
    password = Prompt.ask("Password", password=True)
    if Prompt.ask("Once more", password=True) != password:
        raise InvalidInput("The two passwords differ; nothing was changed.", field="password")
    return password
