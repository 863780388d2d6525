"""votes that the guard set aside, and what an admin released from it

Revision 0006, after 0005
"""

import sqlalchemy as sa
from alembic import op

from storage.db.tables import UtcDateTime

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.create_table(
        "set_aside_vote",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("run_id", sa.String(), sa.ForeignKey("training_run.id"), nullable=False),
        sa.Column("message_id", sa.String(), sa.ForeignKey("message.id"), nullable=False, index=True),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False, index=True),
        sa.Column("reason", sa.String(), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.UniqueConstraint("run_id", "message_id", "user_id"),
    )
    op.create_table(
        "guard_release",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False, index=True),
        sa.Column("message_id", sa.String(), sa.ForeignKey("message.id"), index=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
    )
