"""The page behind a password link, where a person who was invited or forgot their password chooses one."""

from typing import Annotated

from fastapi import APIRouter, Form, Request
from starlette.responses import Response

from app.web.auth import ServicesHere, start_session
from app.web.languages import language_in
from app.web.sign_in import page, signed_in
from storage.errors import InvalidInput, NotAuthenticated
from storage.people import accounts

router = APIRouter(include_in_schema=False)


def password_link(site: str, secret: str) -> str:
    """The link with this secret, on the site with this address."""
    return f"{site}/password-link?token={secret}"


@router.get("/password-link")
def show_form(request: Request, services: ServicesHere, token: str = "") -> Response:
    try:
        with services.database.read() as session:
            name = accounts.check_password_link(session, token).name
    except NotAuthenticated as error:
        return _refused(request, error)
    return _form(request, token, name or "")


@router.post("/password-link")
def choose_password(
    request: Request,
    services: ServicesHere,
    token: Annotated[str, Form()] = "",
    new: Annotated[str, Form()] = "",
) -> Response:
    try:
        with services.database.read() as session:  # strangers do not get to hold the write lock
            name = accounts.check_password_link(session, token).name
        with services.database.write() as session:
            user_id = accounts.redeem_password_link(session, token, new)
            plain = start_session(session, user_id, services.settings)
    except NotAuthenticated as error:
        return _refused(request, error)
    except InvalidInput as error:  # the link still works
        return _form(request, token, name or "", alert=language_in(request).error(error), status=error.status)
    return signed_in(request, services, plain, "/")


def _form(request: Request, token: str, name: str, *, alert: str = "", status: int = 200) -> Response:
    values = {"token": token, "name": name, "alert": alert}
    return page(language_in(request), "password_link.html", "choose_password", status, **values)


def _refused(request: Request, error: NotAuthenticated) -> Response:
    language = language_in(request)
    return page(language, "page.html", "link_does_not_work", 403, alert=language.error(error))
