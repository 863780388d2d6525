"""a chat has a sampling of its own

Revision 0017, after 0016
"""

import sqlalchemy as sa
from alembic import op

revision = "0017"
down_revision = "0016"


def upgrade() -> None:
    op.add_column("chat", sa.Column("sampling", sa.JSON(), nullable=True))
