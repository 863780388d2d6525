"""scopes of API tokens

Revision 0022, after 0019
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0019"


def upgrade() -> None:
    op.add_column("api_token", sa.Column("scopes", sa.String(), nullable=False, server_default=""))
