"""Accounts and API tokens. For admins."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, StrictBool, StrictInt, field_validator

from app.api.schemas import Id
from app.web.auth import Admin, ServicesHere, site_address
from app.web.openapi_names import Body
from app.web.password_links import password_link
from storage.people import accounts, tokens, users

router = APIRouter(tags=["users"])

Role = Literal["admin", "user"]
Scope = Literal["read", "vote", "chat", "train"]


class AccountOut(BaseModel, from_attributes=True):
    id: str
    name: str
    role: str
    disabled: bool
    quarantined: bool
    created_at: datetime


class Accounts(BaseModel):
    items: list[AccountOut]


class NewAccount(Body, json_schema_extra={"examples": [{"name": "ada", "password": "a long password"}]}):
    name: str
    role: Role = "user"
    password: str | None = Field(
        None, description="At least 10 characters; without one, make a password link or sign in elsewhere."
    )


class AccountChange(Body, json_schema_extra={"examples": [{"disabled": True}]}):
    role: Role | None = None
    disabled: StrictBool | None = None
    password: str | None = None


class TokenOut(BaseModel, from_attributes=True):
    id: str
    user_id: str
    name: str
    prefix: str = Field(description="Its first characters.")
    scopes: list[Scope] = Field(description="What it is confined to; empty: all that the role may.")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None

    @field_validator("scopes", mode="before")
    @classmethod
    def _split(cls, stored: object) -> object:
        return stored.split() if isinstance(stored, str) else stored


class Tokens(BaseModel):
    items: list[TokenOut]


class NewToken(Body, json_schema_extra={"examples": [{"name": "robot"}]}):
    name: str = Field(description="The program; creates the account of this name if needed.")
    role: Role = "user"
    days: StrictInt = Field(0, description="Days until it expires; 0: never.")
    scopes: list[Scope] = Field([], description="What it is confined to; empty: all that the role may.")


class IssuedToken(TokenOut):
    token: str = Field(description="Its text, which is not stored.")


@router.get("/users")
def list_accounts(_: Admin, services: ServicesHere) -> Accounts:
    """The accounts by name; visitors and end users have none."""
    with services.database.read() as session:
        return Accounts(items=[AccountOut.model_validate(one) for one in users.list_users(session)])


@router.post("/users", status_code=201)
def create_account(body: NewAccount, identity: Admin, services: ServicesHere) -> AccountOut:
    """Add an account; 409 if the name is taken."""
    with services.database.write() as session:
        user = accounts.create(
            session, body.name, role=body.role, password=body.password, by=identity.user_id
        )
        return AccountOut.model_validate(user)


@router.patch("/users/{user_id}")
def change_account(user_id: Id, body: AccountChange, identity: Admin, services: ServicesHere) -> AccountOut:
    """Change role, access or password; the account's sessions, links and tokens end."""
    with services.database.write() as session:
        accounts.change(session, user_id, by=identity.user_id, **body.model_dump())
        return AccountOut.model_validate(users.get_user(session, user_id))


class PasswordLink(BaseModel):
    link: str = Field(description="Works once; an earlier one has ended.")
    expires_at: datetime | None


@router.post("/users/{user_id}/password-link", status_code=201)
def create_password_link(
    user_id: Id, request: Request, identity: Admin, services: ServicesHere
) -> PasswordLink:
    """A link by which the person chooses a password: an invitation, or for one who forgot it."""
    with services.database.write() as session:
        token, plain = accounts.issue_password_link(session, user_id, by=identity.user_id)
        expires_at = token.expires_at
    link = password_link(site_address(request, services.settings), plain)
    return PasswordLink(link=link, expires_at=expires_at)


@router.get("/tokens")
def list_tokens(_: Admin, services: ServicesHere) -> Tokens:
    """The API tokens, oldest first."""
    with services.database.read() as session:
        return Tokens(items=[TokenOut.model_validate(one) for one in tokens.list_tokens(session)])


@router.post("/tokens", status_code=201)
def create_token(body: NewToken, identity: Admin, services: ServicesHere) -> IssuedToken:
    """Create an API token. It is shown this once."""
    with services.database.write() as session:
        token, plain = accounts.issue_token(
            session, body.name, role=body.role, days=body.days, by=identity.user_id, scopes=body.scopes
        )
        return IssuedToken(**TokenOut.model_validate(token).model_dump(), token=plain)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: Id, identity: Admin, services: ServicesHere) -> None:
    """Revoke an API token at once."""
    with services.database.write() as session:
        accounts.revoke_token(session, token_id, by=identity.user_id)
