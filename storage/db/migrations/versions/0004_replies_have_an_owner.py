"""replies have an owner, the server that generates one, and a lease; an index finds a person's newest chat

Revision 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

from storage.db.tables import UtcDateTime, where

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("message", sa.Column("server", sa.String()))
    op.add_column("message", sa.Column("lease_until", UtcDateTime()))
    op.create_index("ix_message_streaming", "message", ["lease_until"], **where("state = 'streaming'"))
    op.drop_index("ix_chat_owner_id", "chat")
    op.create_index("ix_chat_owner", "chat", ["owner_id", "id"])
