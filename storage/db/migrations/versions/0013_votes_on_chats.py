"""a vote on a whole chat is spread over its replies

Revision 0013, after 0012
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    for table in ("vote", "vote_event"):
        op.add_column(table, sa.Column("share", sa.Float(), nullable=True))
    parts = sa.text("share < 1")
    op.create_index("ix_vote_event_share", "vote_event", ["id"], sqlite_where=parts, postgresql_where=parts)
