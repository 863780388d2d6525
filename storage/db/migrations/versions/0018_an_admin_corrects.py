"""an admin says what a reply should have said

Revision 0018, after 0017
"""

import sqlalchemy as sa
from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    op.add_column("review", sa.Column("correction", sa.Text(), nullable=True))
