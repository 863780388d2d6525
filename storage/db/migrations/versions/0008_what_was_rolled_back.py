"""a deployment says whether it rolled another one back

Revision 0008, after 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"


def upgrade() -> None:
    op.add_column(
        "deployment", sa.Column("rolled_back", sa.Boolean(), nullable=False, server_default=sa.false())
    )
