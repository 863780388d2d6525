"""Who the caller is."""

from fastapi import APIRouter
from pydantic import BaseModel

from app.auth import CurrentUser

router = APIRouter(tags=["users"])


class Me(BaseModel):
    id: str
    name: str
    role: str


@router.get("/me")
def me(identity: CurrentUser) -> Me:
    """Whose token or session this is."""
    return Me(id=identity.user_id, name=identity.name, role=identity.role)
