"""People: who the caller is; quarantine and erasure for admins."""

from datetime import datetime

from fastapi import APIRouter
from pydantic import BaseModel, Field, StrictBool

from app.api.schemas import Id
from app.services import Services
from app.web.auth import Admin, CurrentUser, ServicesHere
from app.web.openapi_names import Body
from storage.errors import NotFound
from storage.files.installation_key import load_secret
from storage.people import tokens
from storage.people.end_users import find_end_user
from storage.people.users import get_user
from storage.privacy.erasure import ErasureReport, erase_user, preview_user, remove_copies
from storage.privacy.quarantine import QuarantineReport, set_quarantine

router = APIRouter(tags=["users"])


class Me(BaseModel):
    id: str
    name: str
    role: str


@router.get("/me")
def me(identity: CurrentUser) -> Me:
    """The owner of this token or session."""
    return Me(id=identity.user_id, name=identity.name, role=identity.role)


class BrowserSession(BaseModel, from_attributes=True):
    id: str
    created_at: datetime
    expires_at: datetime | None


class BrowserSessions(BaseModel):
    items: list[BrowserSession]


class SessionsEnded(BaseModel):
    ended: int = Field(description="How many sessions and sign-in links this ended.")


@router.get("/me/sessions")
def list_own_sessions(identity: CurrentUser, services: ServicesHere) -> BrowserSessions:
    """Your browser sessions that have not ended, the newest 100."""
    return _sessions(services, identity.user_id)


@router.delete("/me/sessions")
def end_own_sessions(identity: CurrentUser, services: ServicesHere) -> SessionsEnded:
    """End all your browser sessions and sign-in links. API tokens stay."""
    return _end_sessions(services, identity.user_id, by=identity.user_id)


@router.delete("/me/sessions/{session_id}")
def end_own_session(session_id: Id, identity: CurrentUser, services: ServicesHere) -> SessionsEnded:
    """End one of your browser sessions."""
    return _end_sessions(services, identity.user_id, session_id, by=identity.user_id)


@router.get("/users/{user_id}/sessions")
def list_sessions(user_id: Id, _: Admin, services: ServicesHere) -> BrowserSessions:
    """The browser sessions of a person that have not ended, the newest 100. For admins."""
    return _sessions(services, user_id)


@router.delete("/users/{user_id}/sessions")
def end_sessions(user_id: Id, identity: Admin, services: ServicesHere) -> SessionsEnded:
    """End all browser sessions and sign-in links of a person. API tokens stay. For admins."""
    return _end_sessions(services, user_id, by=identity.user_id)


@router.delete("/users/{user_id}/sessions/{session_id}")
def end_session(user_id: Id, session_id: Id, identity: Admin, services: ServicesHere) -> SessionsEnded:
    """End a browser session of a person. For admins."""
    return _end_sessions(services, user_id, session_id, by=identity.user_id)


class Quarantine(Body):
    quarantined: StrictBool = Field(description="true: quarantine. false: release.")
    reason: str = Field("", max_length=1000, description="For the audit log.")


@router.put("/users/{user_id}/quarantine")
def quarantine(user_id: Id, body: Quarantine, identity: Admin, services: ServicesHere) -> QuarantineReport:
    """Quarantine or release a person. Quarantined votes are kept, but not trained on, counted or exported."""
    with services.database.write() as session:
        return set_quarantine(session, user_id, body.quarantined, by=identity.user_id, reason=body.reason)


@router.delete("/users/{user_id}/data")
def erase_data(user_id: Id, identity: Admin, services: ServicesHere) -> ErasureReport:
    """Erase a person: name, secrets, chats, votes, and exports in the data directory. For admins."""
    return _erase(services, user_id, by=identity.user_id)


@router.get("/users/{user_id}/data")
def preview_erasure(user_id: Id, _: Admin, services: ServicesHere) -> ErasureReport:
    """What an erasure of this person would remove, and which versions it would affect. For admins."""
    with services.database.read() as session:
        return preview_user(session, user_id)


class EndUser(Body):
    user: str = Field(description="The name that your application sent as `user`.")


@router.post("/end-users/erase")
def erase_end_user(body: EndUser, identity: CurrentUser, services: ServicesHere) -> ErasureReport:
    """Erase an end user of your own application: chats, votes and the name's hash."""
    salt = load_secret(services.settings.data_dir)
    with services.database.read() as session:
        person = find_end_user(session, identity.user_id, body.user, salt=salt)
    if person is None:
        raise NotFound("Your application has named no such user, or they were erased.", field="user")
    return _erase(services, person.id, by=identity.user_id)


def _sessions(services: Services, user_id: str) -> BrowserSessions:
    with services.database.read() as session:
        get_user(session, user_id)
        found = tokens.list_sessions(session, user_id)
        return BrowserSessions(items=[BrowserSession.model_validate(one) for one in found])


def _end_sessions(services: Services, user_id: str, session_id: str = "", *, by: str) -> SessionsEnded:
    with services.database.write() as session:
        get_user(session, user_id)
        ended = tokens.sign_out(session, user_id, session_id, by=by)
    return SessionsEnded(ended=ended)


def _erase(services: Services, user_id: str, *, by: str) -> ErasureReport:
    with services.database.write() as session:
        report = erase_user(session, user_id, by=by)
    remove_copies(services.database, services.settings.data_dir)
    return report
