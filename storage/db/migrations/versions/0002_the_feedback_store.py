"""the feedback store: erasure with tombstones, quarantine, signals, webhook outbox, import keys, canaries

Revision 0002, after 0001
"""

import sqlalchemy as sa
from alembic import op

from storage.db.tables import UtcDateTime, where

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    # Adding a column needs no new table, which on SQLite would replace the old one: foreign keys forbid that
    # once there are rows, and vote_event would lose its AUTOINCREMENT.
    op.add_column(
        "model_version", sa.Column("erased_votes", sa.Integer(), nullable=False, server_default="0")
    )
    op.add_column("message", sa.Column("messages_left_out", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("user_account", sa.Column("erased_at", UtcDateTime()))
    op.add_column("user_account", sa.Column("app_id", sa.String(), index=True))
    op.add_column("user_account", sa.Column("app_key", sa.String(), index=True, unique=True))
    for table in ("user_account", "vote", "vote_event"):
        quarantined: sa.Column[bool] = sa.Column(
            "quarantined", sa.Boolean(), nullable=False, server_default=sa.false()
        )
        op.add_column(table, quarantined)
    op.create_index("ix_vote_event_label", "vote_event", ["label", "id"])
    op.add_column("chat", sa.Column("canary_id", sa.String(), index=True))
    op.drop_column("deployment", "share")  # a canary has its own; the deployed version gets the rest
    op.create_table(
        "signal",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("message_id", sa.String(), sa.ForeignKey("message.id"), nullable=False),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False, index=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("after_event_id", sa.Integer(), nullable=False, index=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("message_id", "user_id", "kind"),
    )
    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("event_id", sa.Integer(), sa.ForeignKey("vote_event.id"), nullable=False, unique=True),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", UtcDateTime(), nullable=False),
        sa.Column("lease_until", UtcDateTime()),
        sa.Column("delivered_at", UtcDateTime()),
        sa.Column("failed_at", UtcDateTime()),
        sa.Column("last_error", sa.Text()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    waiting = where("delivered_at IS NULL AND failed_at IS NULL")
    op.create_index("ix_webhook_delivery_waiting", "webhook_delivery", ["next_attempt_at"], **waiting)
    op.create_table(
        "webhook_cursor",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("event_id", sa.Integer(), nullable=False),
    )
    op.create_table(
        "import_request",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("user_id", "key"),
    )
    op.create_table(
        "canary",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), sa.ForeignKey("model_version.id"), nullable=False),
        sa.Column("compared_with_id", sa.String(), sa.ForeignKey("model_version.id"), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("ending", sa.Text()),
    )
    op.create_index("ix_canary_open", "canary", ["policy"], unique=True, **where("ended_at IS NULL"))
    op.create_table(
        "run_vote",
        sa.Column("message_id", sa.String(), sa.ForeignKey("message.id"), primary_key=True),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), primary_key=True),
        sa.Column("run_id", sa.String(), sa.ForeignKey("training_run.id"), primary_key=True, index=True),
    )
    _move_votes()


def _move_votes() -> None:
    """The votes that a run learned from were a list in its snapshot."""
    connection = op.get_bind()
    runs = sa.table("training_run", sa.column("id", sa.String()), sa.column("snapshot", sa.JSON()))
    kept = sa.table("run_vote", *(sa.column(name) for name in ("message_id", "user_id", "run_id")))
    for run_id, snapshot in connection.execute(sa.select(runs.c.id, runs.c.snapshot)).all():
        if not snapshot or "votes" not in snapshot:
            continue
        rows = [
            {"message_id": message, "user_id": user, "run_id": run_id}
            for message, user in snapshot.pop("votes")
        ]
        if rows:
            connection.execute(sa.insert(kept), rows)
        connection.execute(sa.update(runs).where(runs.c.id == run_id).values(snapshot=snapshot))
