"""Accounts and API tokens. For admins."""

from datetime import datetime
from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field, StrictBool, StrictInt

from app.api.schemas import Id
from app.web.auth import Admin, ServicesHere
from app.web.openapi_names import Body
from storage.people import accounts, tokens, users

router = APIRouter(tags=["users"])

Role = Literal["admin", "user"]


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
    password: str = Field(description="At least 10 characters.")


class AccountChange(Body, json_schema_extra={"examples": [{"disabled": True}]}):
    role: Role | None = None
    disabled: StrictBool | None = None
    password: str | None = None


class TokenOut(BaseModel, from_attributes=True):
    id: str
    user_id: str
    name: str
    prefix: str = Field(description="Its first characters.")
    created_at: datetime
    expires_at: datetime | None
    revoked_at: datetime | None


class Tokens(BaseModel):
    items: list[TokenOut]


class NewToken(Body, json_schema_extra={"examples": [{"name": "robot"}]}):
    name: str = Field(description="The program; creates the account of this name if needed.")
    role: Role = "user"
    days: StrictInt = Field(0, description="Days until it expires; 0: never.")


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
            session, body.name, role=body.role, days=body.days, by=identity.user_id
        )
        return IssuedToken(**TokenOut.model_validate(token).model_dump(), token=plain)


@router.delete("/tokens/{token_id}", status_code=204)
def revoke_token(token_id: Id, identity: Admin, services: ServicesHere) -> None:
    """Revoke an API token at once."""
    with services.database.write() as session:
        accounts.revoke_token(session, token_id, by=identity.user_id)
