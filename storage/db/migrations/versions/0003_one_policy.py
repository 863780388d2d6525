"""no policy columns: nothing ever held another value than "default"

Revision 0003, after 0002
"""

import sqlalchemy as sa
from alembic import op

from storage.db.tables import where

revision = "0003"
down_revision = "0002"

# The tables with at most one open row: the index that ensures it, its end column and its condition.
ONE_OPEN = {
    "training_run": ("ix_training_run_active", "finished_at", "state IN ('requested', 'running')"),
    "deployment": ("ix_deployment_open", "ended_at", "ended_at IS NULL"),
    "canary": ("ix_canary_open", "ended_at", "ended_at IS NULL"),
}


def upgrade() -> None:
    # SQLite rebuilds this table, because the column is part of a constraint; no foreign key points at it.
    with op.batch_alter_table("schedule_tick") as batch_op:
        batch_op.drop_constraint("uq_schedule_tick_policy_due_at", type_="unique")
        batch_op.drop_column("policy")
        batch_op.create_unique_constraint("uq_schedule_tick_due_at", ["due_at"])
    for table, (index, end, condition) in ONE_OPEN.items():
        op.drop_index(index, table)
        op.drop_column(table, "policy")
        op.create_index(index, table, [sa.text(f"({end} IS NULL)")], unique=True, **where(condition))
