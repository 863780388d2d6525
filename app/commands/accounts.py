"""`thumbloop user`, `token` and `admin-link`: accounts, API tokens and sign-in links."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Literal

import typer
from rich.prompt import Prompt
from sqlmodel import Session

from app.commands.terminal import ACTOR, opened_database, print_table, say, shown_time
from storage.db import audit
from storage.db.tables import ApiToken, now
from storage.errors import BadSetting, InvalidInput, NotFound
from storage.people import accounts, tokens, users
from storage.settings import Settings

user_commands = typer.Typer(
    no_args_is_help=True, help="Accounts: create, invite, list, password, role, disable, sessions, sign-out."
)
token_commands = typer.Typer(no_args_is_help=True, help="API tokens: create, list, revoke.")
ADMIN = "admin"  # the account that admin links sign in to
LINK_LIFE = timedelta(hours=24)
Role = Literal["admin", "user"]
ROLE = typer.Option("user", help="admin: may also train, deploy and export.")
PASSWORD_STDIN = typer.Option(False, "--password-stdin", help="Read the password from standard input.")


@user_commands.command("create")
def create_user(name: str, role: Role = ROLE, password_stdin: bool = PASSWORD_STDIN) -> None:
    """Create an account; asks for its password."""
    with opened_database() as (_, database):
        password = _ask_password(password_stdin)
        with database.write() as session:
            accounts.create(session, name, role=role, password=password, by=ACTOR)
    say(f"Created {role} {name}.")


@user_commands.command("list")
def list_users() -> None:
    """List the accounts."""
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
    print_table(("name", "role", "state", "created"), rows, empty="There are no accounts yet.")


@user_commands.command("password")
def set_password(name: str, password_stdin: bool = PASSWORD_STDIN) -> None:
    """Change the password of an account. Its sessions, links and API tokens end."""
    with _account(name):
        pass  # refuse an unknown name before asking
    password = _ask_password(password_stdin)
    with _account(name) as (session, user_id):
        ended = accounts.change(session, user_id, password=password, by=ACTOR)
    say(f"Changed the password of {name}. {_ended(ended)}")


@user_commands.command("invite")
def invite(name: str, role: Role = ROLE) -> None:
    """Print a link by which a person chooses a password, once and within three days.

    Creates the account if it is missing. For one who forgot their password it works, too: the old one stays
    until then.
    """
    with opened_database() as (settings, database), database.write() as session:
        user = users.find_user(session, name.strip())
        if user is None:
            user = accounts.create(session, name, role=role, password=None, by=ACTOR)
        secret = accounts.issue_password_link(session, user.id, by=ACTOR)[1]
    say(f"{site_here(settings)}/password-link?token={secret}")


@user_commands.command("role")
def set_role(name: str, role: Role) -> None:
    """Make an account an admin or an ordinary user. Its sessions, links and API tokens end."""
    with _account(name) as (session, user_id):
        ended = accounts.change(session, user_id, role=role, by=ACTOR)
    say(f"{name} now has the role {role}. {_ended(ended)}")


@user_commands.command("disable")
def disable_user(name: str, undo: bool = typer.Option(False, "--undo", help="Enable the account.")) -> None:
    """Disable an account: its password stops working, and its sessions, links and API tokens end.

    Its votes stay. `--undo` makes the password work again and revives nothing else.
    """
    with _account(name) as (session, user_id):
        ended = accounts.change(session, user_id, disabled=not undo, by=ACTOR)
    say(f"{name} is {'enabled' if undo else 'disabled'}. {_ended(ended)}")


@user_commands.command("sessions")
def list_sessions(name: str) -> None:
    """List the browser sessions of an account that have not ended, the newest 100."""
    with _account(name) as (session, user_id):
        rows = [
            (one.id, shown_time(one.created_at), shown_time(one.expires_at))
            for one in tokens.list_sessions(session, user_id)
        ]
    print_table(("id", "began", "ends"), rows, empty=f"{name} is not signed in anywhere.")


@user_commands.command("sign-out")
def sign_out(
    name: str,
    session_id: str = typer.Option("", "--session", metavar="ID", help="Only this session."),
) -> None:
    """End the browser sessions and sign-in links of an account. Its API tokens stay."""
    with _account(name) as (session, user_id):
        ended = tokens.sign_out(session, user_id, session_id, by=ACTOR)
    say(f"{name} is signed out. {_ended(ended)}")


@token_commands.command("create")
def create_token(
    name: str = typer.Argument(help="The program it is for. Creates the account of this name if needed."),
    role: Role = ROLE,
    days: int = typer.Option(0, min=0, max=accounts.MOST_DAYS, help="Days until it expires. 0: never."),
    scope: list[str] = typer.Option(
        [],
        help=f"Confine it: {', '.join(tokens.SCOPES)}; several times for several. Without: all of the role.",
    ),
    plain: bool = typer.Option(False, "--plain", help="Print the token alone, for scripts."),
) -> None:
    """Create an API token. It is shown once and not stored."""
    with opened_database() as (_, database), database.write() as session:
        secret = accounts.issue_token(session, name, role=role, days=days, by=ACTOR, scopes=scope)[1]
    if plain:
        typer.echo(secret)
    else:
        say(f"Token of {role} {name}, shown this once:\n{secret}")
        say("Send it as the header `Authorization: Bearer …`.")


@token_commands.command("list")
def list_tokens() -> None:
    """List the API tokens by their first characters; the tokens themselves are not stored."""
    with opened_database() as (_, database), database.read() as session:
        rows = [
            (
                token.id,
                token.name,
                users.get_user(session, token.user_id).role,
                token.scopes.replace(" ", ",") or "all",
                f"{token.prefix}…",
                _state(token),
                shown_time(token.created_at),
                shown_time(token.expires_at),
            )
            for token in tokens.list_tokens(session)
        ]
    columns = ("id", "name", "role", "scopes", "begins", "state", "created", "expires")
    print_table(columns, rows, empty="There are no API tokens yet.")


@token_commands.command("revoke")
def revoke_token(
    token_id: str = typer.Argument(metavar="ID", help="As `thumbloop token list` shows it."),
) -> None:
    """Revoke an API token at once."""
    with opened_database() as (_, database), database.write() as session:
        accounts.revoke_token(session, token_id, by=ACTOR)
    say(f"Token {token_id} is revoked.")


def admin_link() -> None:
    """Print a new link to the admin page. It signs in once, within a day."""
    with opened_database() as (settings, database):
        if settings.port == 0:
            raise BadSetting("With THUMBLOOP_PORT=0 only the server knows its port; set one.", field="port")
        with database.write() as session:
            link = new_admin_link(session, site_here(settings))
    say(link)


def new_admin_link(session: Session, address: str) -> str:
    """A one-time link that signs in to the account `admin`; creates the account if it is missing."""
    user = users.ensure_user(session, ADMIN, "admin")
    token, secret = tokens.create_token(session, user.id, name="admin link", kind="login", ttl=LINK_LIFE)
    audit.record(session, ACTOR, "create admin link", token.id)
    return f"{address}/admin?token={secret}"


def site_here(settings: Settings, port: int | None = None) -> str:
    """The URL at which a browser on this machine reaches the server; `port` in place of the setting's."""
    everywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}
    reachable = everywhere.get(settings.host, settings.host)
    host = f"[{reachable}]" if ":" in reachable else reachable
    return f"http://{host}:{settings.port if port is None else port}{settings.root_path}"


def _state(token: ApiToken) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "expired" if token.expires_at is not None and token.expires_at <= now() else "active"


def _ended(number: int) -> str:
    return f"Sessions, links and API tokens ended: {number}."


@contextmanager
def _account(name: str) -> Iterator[tuple[Session, str]]:
    """A session that may write, and the id of this account; raises NotFound."""
    with opened_database() as (_, database), database.write() as session:
        user = users.find_user(session, name)
        if user is None:
            raise NotFound(f"There is no user {name!r}; `thumbloop user list` shows them all.", field="name")
        yield session, user.id


def _ask_password(from_stdin: bool) -> str:
    if from_stdin:
        return sys.stdin.readline().rstrip("\r\n")
    if not sys.stdin.isatty():
        raise InvalidInput("No terminal to ask for the password; use --password-stdin.", field="password")
    password = Prompt.ask("Password", password=True)
    if Prompt.ask("Repeat the password", password=True) != password:
        raise InvalidInput("The two passwords differ; nothing was changed.", field="password")
    return password
