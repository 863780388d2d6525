"""an admin excludes single votes and rates replies a second time

Revision 0009, after 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"


def upgrade() -> None:
    op.add_column("vote", sa.Column("excluded", sa.Boolean(), nullable=False, server_default=sa.false()))
    op.create_table(
        "review",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("created_at", sa.DateTime(), nullable=False),
        sa.Column("vote_id", sa.String(), sa.ForeignKey("vote.id"), nullable=False),
        sa.Column("by", sa.String(), sa.ForeignKey("user_account.id"), nullable=False),
        sa.Column("label", sa.Boolean(), nullable=True),
        sa.Column("note", sa.Text(), nullable=True),
        sa.Column("updated_at", sa.DateTime(), nullable=False),
        sa.UniqueConstraint("vote_id", "by"),
    )
