"""an admin says what a reply should have said

Revision 0019, after 0018
"""

import sqlalchemy as sa
from alembic import op

revision = "0019"
down_revision = "0018"


def upgrade() -> None:
    op.add_column("review", sa.Column("correction", sa.Text(), nullable=True))
