"""the feedback store: erasure with tombstones, quarantine, signals, webhook outbox, import keys, canaries

Revision 0002, after 0001
"""

from typing import Literal

import sqlalchemy as sa
from alembic import op

import storage.db.tables

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

QUARANTINABLE = ("user_account", "vote", "vote_event")
# Rebuilding a table drops the old one, which foreign keys forbid on SQLite once there are rows, and
# vote_event would lose its AUTOINCREMENT. Adding a column needs no rebuild.
NEVER: Literal["never"] = "never"
OPEN = sa.text("ended_at IS NULL")
WAITING = sa.text("delivered_at IS NULL AND failed_at IS NULL")


def upgrade() -> None:
    with op.batch_alter_table("model_version", recreate=NEVER) as batch_op:
        batch_op.add_column(sa.Column("erased_votes", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("message", recreate=NEVER) as batch_op:
        batch_op.add_column(sa.Column("messages_left_out", sa.Integer(), nullable=False, server_default="0"))
    with op.batch_alter_table("user_account", recreate=NEVER) as batch_op:
        batch_op.add_column(sa.Column("erased_at", storage.db.tables.UtcDateTime(), nullable=True))
        batch_op.add_column(sa.Column("app_id", sa.String(), nullable=True))
        batch_op.add_column(sa.Column("app_key", sa.String(), nullable=True))
    op.create_index(op.f("ix_user_account_app_id"), "user_account", ["app_id"])
    op.create_index(op.f("ix_user_account_app_key"), "user_account", ["app_key"], unique=True)
    for table in QUARANTINABLE:
        with op.batch_alter_table(table, recreate=NEVER) as batch_op:
            batch_op.add_column(
                sa.Column("quarantined", sa.Boolean(), nullable=False, server_default=sa.false())
            )
    op.create_index("ix_vote_event_label", "vote_event", ["label", "id"])
    with op.batch_alter_table("chat", recreate=NEVER) as batch_op:
        batch_op.add_column(sa.Column("canary_id", sa.String(), nullable=True))
    op.create_index(op.f("ix_chat_canary_id"), "chat", ["canary_id"])
    with op.batch_alter_table("deployment", recreate=NEVER) as batch_op:
        batch_op.drop_column("share")  # a canary has its own; the deployed version gets the rest

    op.create_table(
        "signal",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("after_event_id", sa.Integer(), nullable=False),
        sa.Column("created_at", storage.db.tables.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name=op.f("fk_signal_message_id_message")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user_account.id"], name=op.f("fk_signal_user_id_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signal")),
        sa.UniqueConstraint("message_id", "user_id", "kind", name=op.f("uq_signal_message_id_user_id_kind")),
    )
    op.create_index(op.f("ix_signal_after_event_id"), "signal", ["after_event_id"])
    op.create_index(op.f("ix_signal_user_id"), "signal", ["user_id"])

    op.create_table(
        "webhook_delivery",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.Column("event", sa.String(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("next_attempt_at", storage.db.tables.UtcDateTime(), nullable=False),
        sa.Column("lease_until", storage.db.tables.UtcDateTime(), nullable=True),
        sa.Column("delivered_at", storage.db.tables.UtcDateTime(), nullable=True),
        sa.Column("failed_at", storage.db.tables.UtcDateTime(), nullable=True),
        sa.Column("last_error", sa.Text(), nullable=True),
        sa.Column("created_at", storage.db.tables.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["event_id"], ["vote_event.id"], name=op.f("fk_webhook_delivery_event_id_vote_event")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_delivery")),
        sa.UniqueConstraint("event_id", name=op.f("uq_webhook_delivery_event_id")),
    )
    op.create_index(
        "ix_webhook_delivery_waiting",
        "webhook_delivery",
        ["next_attempt_at"],
        sqlite_where=WAITING,
        postgresql_where=WAITING,
    )

    op.create_table(
        "webhook_cursor",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("event_id", sa.Integer(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_webhook_cursor")),
    )

    op.create_table(
        "import_request",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("key", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False),
        sa.Column("report", sa.JSON(), nullable=False),
        sa.Column("created_at", storage.db.tables.UtcDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user_account.id"], name=op.f("fk_import_request_user_id_user_account")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_import_request")),
        sa.UniqueConstraint("user_id", "key", name=op.f("uq_import_request_user_id_key")),
    )

    op.create_table(
        "canary",
        sa.Column("id", sa.String(), nullable=False),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), nullable=False),
        sa.Column("compared_with_id", sa.String(), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("started_at", storage.db.tables.UtcDateTime(), nullable=False),
        sa.Column("ended_at", storage.db.tables.UtcDateTime(), nullable=True),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
        sa.Column("ending", sa.Text(), nullable=True),
        sa.ForeignKeyConstraint(
            ["version_id"], ["model_version.id"], name=op.f("fk_canary_version_id_model_version")
        ),
        sa.ForeignKeyConstraint(
            ["compared_with_id"], ["model_version.id"], name=op.f("fk_canary_compared_with_id_model_version")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_canary")),
    )
    op.create_index(
        "ix_canary_open", "canary", ["policy"], unique=True, sqlite_where=OPEN, postgresql_where=OPEN
    )

    op.create_table(
        "run_vote",
        sa.Column("message_id", sa.String(), nullable=False),
        sa.Column("user_id", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), nullable=False),
        sa.ForeignKeyConstraint(["message_id"], ["message.id"], name=op.f("fk_run_vote_message_id_message")),
        sa.ForeignKeyConstraint(
            ["user_id"], ["user_account.id"], name=op.f("fk_run_vote_user_id_user_account")
        ),
        sa.ForeignKeyConstraint(
            ["run_id"], ["training_run.id"], name=op.f("fk_run_vote_run_id_training_run")
        ),
        sa.PrimaryKeyConstraint("message_id", "user_id", "run_id", name=op.f("pk_run_vote")),
    )
    op.create_index(op.f("ix_run_vote_run_id"), "run_vote", ["run_id"])
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


def downgrade() -> None:
    op.drop_index("ix_vote_event_label", "vote_event")
    with op.batch_alter_table("deployment", recreate=NEVER) as batch_op:
        batch_op.add_column(sa.Column("share", sa.Float(), nullable=False, server_default="1"))
    op.drop_index(op.f("ix_chat_canary_id"), "chat")
    with op.batch_alter_table("chat", recreate=NEVER) as batch_op:
        batch_op.drop_column("canary_id")
    for table in ("canary", "run_vote", "import_request", "webhook_cursor", "webhook_delivery", "signal"):
        op.drop_table(table)
    for table in QUARANTINABLE:
        with op.batch_alter_table(table, recreate=NEVER) as batch_op:
            batch_op.drop_column("quarantined")
    with op.batch_alter_table("message", recreate=NEVER) as batch_op:
        batch_op.drop_column("messages_left_out")
    for column in ("app_id", "app_key"):
        op.drop_index(op.f(f"ix_user_account_{column}"), "user_account")
    with op.batch_alter_table("user_account", recreate=NEVER) as batch_op:
        for column in ("app_key", "app_id", "erased_at"):
            batch_op.drop_column(column)
    with op.batch_alter_table("model_version", recreate=NEVER) as batch_op:
        batch_op.drop_column("erased_votes")
