"""The page /admin/people: accounts, API tokens, whose votes the guard set aside, and erasure."""

from collections import Counter
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Request
from sqlmodel import Session
from starlette.responses import Response

from app.api.v1.guard import current_guard
from app.pages.admin.frame import act, show, write
from app.pages.html import counted
from app.services import Services
from app.web.auth import Identity, ServicesHere, site_address
from app.web.password_links import password_link
from storage.files.installation_key import load_secret
from storage.people import accounts, tokens, users
from storage.privacy.erasure import erase_user, preview_user, remove_copies
from storage.privacy.releases import release, withdraw

ADDRESS = "/admin/people"

router = APIRouter(include_in_schema=False)

Role = Annotated[Literal["user", "admin"], Form()]


@router.get(ADDRESS)
def show_people(request: Request, services: ServicesHere, erase: str = "") -> Response:
    def values(identity: Identity) -> dict[str, Any]:
        return _values(services, identity) | _preview(services, erase.strip())

    return show(request, services, "people.html", values)


@router.post(ADDRESS)
def create_account(
    request: Request,
    services: ServicesHere,
    name: Annotated[str, Form()] = "",
    role: Role = "user",
    password: Annotated[str, Form()] = "",
) -> Response:
    """Without a password the page has a link for the person, which is shown this once."""

    def values(identity: Identity) -> dict[str, Any]:
        by = identity.user_id
        with services.database.write() as session:
            user = accounts.create(session, name, role=role, password=None, by=by)
            secret = accounts.issue_password_link(session, user.id, by=by)[1]
        return _link(request, services, identity, user.name, secret)

    if not password:
        return show(request, services, "people.html", values)

    def deed(session: Session, by: str) -> str:
        user = accounts.create(session, name, role=role, password=password, by=by)
        return f"Created the account {user.name}."

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/tokens")
def create_token(
    request: Request,
    services: ServicesHere,
    name: Annotated[str, Form()] = "",
    role: Role = "user",
    days: Annotated[int, Form()] = 0,
    scopes: Annotated[list[str], Form()] = [],  # noqa: B006 — FastAPI copies it
) -> Response:
    """The page with the new token, which is shown this once."""

    def values(identity: Identity) -> dict[str, Any]:
        with services.database.write() as session:
            token, secret = accounts.issue_token(
                session, name, role=role, days=days, by=identity.user_id, scopes=scopes
            )
        return _values(services, identity) | {"secret": secret, "secret_name": token.name}

    return show(request, services, "people.html", values)


@router.post(f"{ADDRESS}/tokens/{{token_id}}/revoke")
def revoke_token(request: Request, services: ServicesHere, token_id: str) -> Response:
    def deed(session: Session, by: str) -> str:
        accounts.revoke_token(session, token_id, by=by)
        return "The token is revoked."

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/releases")
def release_person(request: Request, services: ServicesHere, user_id: Annotated[str, Form()]) -> Response:
    def deed(session: Session, by: str) -> str:
        release(session, user_id, by=by, reason="Released on the admin page.")
        return "The guard lets that person's votes pass from the next run on."

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/releases/{{release_id}}/end")
def withdraw_release(request: Request, services: ServicesHere, release_id: str) -> Response:
    def deed(session: Session, by: str) -> str:
        withdraw(session, release_id, by=by, reason="Ended on the admin page.")
        return "The release has ended."

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/{{user_id}}")
def change_account(
    request: Request,
    services: ServicesHere,
    user_id: str,
    role: Annotated[Literal["user", "admin"] | None, Form()] = None,
    disabled: Annotated[bool | None, Form()] = None,
    password: Annotated[str | None, Form()] = None,
) -> Response:
    """Change the role, the access or the password of an account."""

    def deed(session: Session, by: str) -> str:
        ended = accounts.change(session, user_id, by=by, role=role, disabled=disabled, password=password)
        name = users.get_user(session, user_id).name
        return f"Changed {name}. Sessions, links and API tokens ended: {ended}."

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/{{user_id}}/password-link")
def create_password_link(request: Request, services: ServicesHere, user_id: str) -> Response:
    """The page with a link to choose a password, which is shown this once."""

    def values(identity: Identity) -> dict[str, Any]:
        with services.database.write() as session:
            secret = accounts.issue_password_link(session, user_id, by=identity.user_id)[1]
            name = users.get_user(session, user_id).name
        return _link(request, services, identity, name, secret)

    return show(request, services, "people.html", values)


@router.post(f"{ADDRESS}/{{user_id}}/sign-out")
def sign_out(request: Request, services: ServicesHere, user_id: str) -> Response:
    def deed(session: Session, by: str) -> str:
        users.get_user(session, user_id)
        ended = tokens.sign_out(session, user_id, by=by)
        return f"Sessions and sign-in links ended: {ended}."

    return write(request, services, deed, ADDRESS)


@router.post(f"{ADDRESS}/{{user_id}}/erase")
def erase_person(request: Request, services: ServicesHere, user_id: str) -> Response:
    def deed(identity: Identity) -> str:
        with services.database.write() as session:
            found = erase_user(session, user_id, by=identity.user_id)
        remove_copies(services.database, services.settings.data_dir)
        affected = f" Affected: {', '.join(found.affected_versions)}." if found.affected_versions else ""
        chats, messages = counted(found.chats, "chat"), counted(found.messages, "message")
        return f"Erased: {chats}, {messages}, {counted(found.votes, 'vote')}.{affected}"

    return act(request, services, deed, ADDRESS)


def _values(services: Services, identity: Identity) -> dict[str, Any]:
    with services.database.read() as session:
        people = users.list_users(session)
        api_tokens = [token for token in tokens.list_tokens(session) if token.revoked_at is None]
        signed_in = Counter(tokens.open_sessions(session, [one.id for one in people]))
    return {
        "accounts": people,
        "names": {one.id: one.name for one in people},
        "signed_in": signed_in,
        "tokens": api_tokens,
        "scopes": tokens.SCOPES,
        "guard": current_guard(services),
        "you": identity.user_id,
        "auth": services.settings.auth,
        **{"secret": "", "link": "", "secret_name": "", "wanted": "", "found": None, "person": None},
    }


def _link(
    request: Request, services: Services, identity: Identity, name: str | None, secret: str
) -> dict[str, Any]:
    link = password_link(site_address(request, services.settings), secret)
    return _values(services, identity) | {"link": link, "secret_name": name}


def _preview(services: Services, text: str) -> dict[str, Any]:
    """What an erasure of the person would remove."""
    if not text:
        return {}
    with services.database.read() as session:
        person = users.find_person(session, text, salt=load_secret(services.settings.data_dir))
        return {"wanted": text, "person": person, "found": preview_user(session, person.id)}
