"""erasure leaves tombstones

Revision 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

import storage.tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.add_column(sa.Column("erased_votes", sa.Integer(), nullable=False, server_default="0"))

    with op.batch_alter_table("user_account", schema=None) as batch_op:
        batch_op.add_column(sa.Column("erased_at", storage.tables.UtcDateTime(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("user_account", schema=None) as batch_op:
        batch_op.drop_column("erased_at")

    with op.batch_alter_table("model_version", schema=None) as batch_op:
        batch_op.drop_column("erased_votes")
