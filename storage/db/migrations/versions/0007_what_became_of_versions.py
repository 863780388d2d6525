"""the webhook tells what became of a version, which is no vote; an index finds the replies of a version

Revision 0007, after 0006
"""

import warnings

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    # SQLite rebuilds this table to let a column be empty; no foreign key points at it. SQLAlchemy then also
    # reads the tables that this one points at, and warns of an index of theirs that it cannot describe.
    with warnings.catch_warnings(), op.batch_alter_table("webhook_delivery") as batch_op:
        warnings.simplefilter("ignore", sa.exc.SAWarning)
        batch_op.alter_column("event_id", existing_type=sa.Integer(), nullable=True)
        batch_op.add_column(sa.Column("data", sa.JSON(none_as_null=True)))
    op.create_index("ix_message_version", "message", ["model_version_id", "created_at"])
