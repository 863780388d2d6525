"""a reply's reasoning stands beside its text

Revision 0010, after 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    op.add_column("message", sa.Column("reasoning", sa.Text(), nullable=True))
    has_some = sa.text("reasoning IS NOT NULL")
    op.create_index(
        "ix_message_reasoning", "message", ["id"], sqlite_where=has_some, postgresql_where=has_some
    )
