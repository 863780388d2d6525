"""scopes of API tokens

Revision 0021, after 0020
"""

import sqlalchemy as sa
from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    op.add_column("api_token", sa.Column("scopes", sa.String(), nullable=False, server_default=""))
