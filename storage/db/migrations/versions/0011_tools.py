"""conversations with tools are found by an index

Revision 0011, after 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    tools = sa.text("role IN ('tools', 'tool_call', 'tool')")
    op.create_index("ix_message_tools", "message", ["role"], sqlite_where=tools, postgresql_where=tools)
