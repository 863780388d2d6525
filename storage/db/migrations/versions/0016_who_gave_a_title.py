"""a chat knows who gave its title

Revision 0016, after 0015
"""

import sqlalchemy as sa
from alembic import op

revision = "0016"
down_revision = "0015"


def upgrade() -> None:
    op.add_column("chat", sa.Column("titled_by", sa.String(), nullable=True))
