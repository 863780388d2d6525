"""The table of canaries: columns only, as in tables.py; what may be done with them is in canaries.py.

No `from __future__ import annotations` here: SQLModel reads the annotations at import.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlalchemy import Index, Text
from sqlmodel import Field

from storage.db.ids import new_id
from storage.db.tables import Table, now
from storage.db.types import UtcDateTime


class Canary(Table, table=True):
    """A version that was tried on a share of the new chats; the open row is the one under way."""

    __tablename__ = "canary"
    __table_args__ = (
        Index(
            "ix_canary_open",
            "policy",
            unique=True,
            sqlite_where=sa.text("ended_at IS NULL"),
            postgresql_where=sa.text("ended_at IS NULL"),
        ),
    )

    id: str = Field(default_factory=new_id, primary_key=True)  # also the seed of who is given to it
    policy: str = "default"
    version_id: str = Field(foreign_key="model_version.id")
    compared_with_id: str = Field(foreign_key="model_version.id")  # deployed all the while
    share: float  # of new chats, above 0 and below 1
    started_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    by: str
    why: str = Field(sa_type=Text)
    ending: str | None = Field(default=None, sa_type=Text)  # why it ended
