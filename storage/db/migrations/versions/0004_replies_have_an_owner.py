"""replies have an owner, the server that generates one, and a lease; an index finds a person's newest chat

Revision 0004, after 0003
"""

import sqlalchemy as sa
from alembic import op

import storage.db.tables

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

STREAMING = sa.text("state = 'streaming'")


def upgrade() -> None:
    with op.batch_alter_table("message", recreate="never") as batch_op:
        batch_op.add_column(sa.Column("server", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("lease_until", storage.db.tables.UtcDateTime(), nullable=True))
    op.create_index(
        "ix_message_streaming",
        "message",
        ["lease_until"],
        sqlite_where=STREAMING,
        postgresql_where=STREAMING,
    )
    op.drop_index("ix_chat_owner_id", "chat")
    op.create_index("ix_chat_owner", "chat", ["owner_id", "id"])


def downgrade() -> None:
    op.drop_index("ix_chat_owner", "chat")
    op.create_index("ix_chat_owner_id", "chat", ["owner_id"])
    op.drop_index("ix_message_streaming", "message")
    with op.batch_alter_table("message", recreate="never") as batch_op:
        batch_op.drop_column("lease_until")
        batch_op.drop_column("server")
