"""the first schema

Revision 0001
"""

import sqlalchemy as sa
from alembic import op

from storage.db.tables import UtcDateTime, where

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "audit_event",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("at", UtcDateTime(), nullable=False),
        sa.Column("actor", sa.String(), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("target", sa.String(), nullable=False),
        sa.Column("detail", sa.JSON(), nullable=False),
    )
    op.create_table(
        "user_account",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), unique=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("password_hash", sa.String()),
        sa.Column("disabled", sa.Boolean(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "api_token",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False, index=True),
        sa.Column("name", sa.String(), nullable=False),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("prefix", sa.String(), nullable=False),
        sa.Column("sha256", sa.String(), nullable=False, unique=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("expires_at", UtcDateTime()),
        sa.Column("revoked_at", UtcDateTime()),
    )
    op.create_table(
        "chat",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("owner_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False, index=True),
        sa.Column("title", sa.String(), nullable=False),
        sa.Column("system_prompt", sa.Text(), nullable=False),
        sa.Column("consent", sa.Boolean(), nullable=False),
        sa.Column("source", sa.String(), nullable=False),
        sa.Column("import_key", sa.String(), unique=True),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.Column("deleted_at", UtcDateTime()),
    )
    op.create_table(
        "training_run",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("trigger", sa.String(), nullable=False),
        sa.Column("requested_by", sa.String(), sa.ForeignKey("user_account.id")),
        sa.Column("force", sa.Boolean(), nullable=False),
        sa.Column("settings", sa.JSON(), nullable=False),
        sa.Column("snapshot", sa.JSON(none_as_null=True)),
        sa.Column("snapshot_event_id", sa.Integer()),
        sa.Column("owner", sa.String()),
        sa.Column("fence", sa.Integer(), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False),
        sa.Column("lease_until", UtcDateTime()),
        sa.Column("heartbeat_at", UtcDateTime()),
        sa.Column("cancel_requested", sa.Boolean(), nullable=False),
        sa.Column("progress", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("log_path", sa.String()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("started_at", UtcDateTime()),
        sa.Column("finished_at", UtcDateTime()),
    )
    active = where("state IN ('requested', 'running')")
    op.create_index("ix_training_run_active", "training_run", ["policy"], unique=True, **active)
    op.create_table(
        "model_version",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("number", sa.Integer(), nullable=False, unique=True),
        sa.Column("parent_id", sa.String(), sa.ForeignKey("model_version.id")),
        sa.Column("run_id", sa.String(), sa.ForeignKey("training_run.id"), unique=True),
        sa.Column("kind", sa.String(), nullable=False),
        sa.Column("base_model", sa.String(), nullable=False),
        sa.Column("path", sa.String()),
        sa.Column("sha256", sa.String()),
        sa.Column("files", sa.JSON(), nullable=False),
        sa.Column("metrics", sa.JSON(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("reason", sa.Text()),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "schedule_tick",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("due_at", UtcDateTime(), nullable=False),
        sa.Column("outcome", sa.String(), nullable=False),
        sa.Column("run_id", sa.String(), sa.ForeignKey("training_run.id")),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("policy", "due_at"),
    )
    op.create_table(
        "deployment",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("policy", sa.String(), nullable=False),
        sa.Column("version_id", sa.String(), sa.ForeignKey("model_version.id"), nullable=False),
        sa.Column("share", sa.Float(), nullable=False),
        sa.Column("started_at", UtcDateTime(), nullable=False),
        sa.Column("ended_at", UtcDateTime()),
        sa.Column("by", sa.String(), nullable=False),
        sa.Column("why", sa.Text(), nullable=False),
    )
    op.create_index("ix_deployment_open", "deployment", ["policy"], unique=True, **where("ended_at IS NULL"))
    op.create_table(
        "message",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("chat_id", sa.String(), sa.ForeignKey("chat.id"), nullable=False, index=True),
        sa.Column("parent_id", sa.String(), sa.ForeignKey("message.id"), index=True),
        sa.Column("role", sa.String(), nullable=False),
        sa.Column("content", sa.Text(), nullable=False),
        sa.Column("state", sa.String(), nullable=False),
        sa.Column("model_version_id", sa.String(), sa.ForeignKey("model_version.id")),
        sa.Column("sampling", sa.JSON(none_as_null=True)),
        sa.Column("finish_reason", sa.String()),
        sa.Column("token_ids", sa.JSON(none_as_null=True)),
        sa.Column("timings", sa.JSON(none_as_null=True)),
        sa.Column("created_at", UtcDateTime(), nullable=False),
    )
    op.create_table(
        "vote",
        sa.Column("id", sa.String(), primary_key=True),
        sa.Column("message_id", sa.String(), sa.ForeignKey("message.id"), nullable=False),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False, index=True),
        sa.Column("label", sa.Boolean()),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text()),
        sa.Column("correction", sa.Text()),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sa.Column("updated_at", UtcDateTime(), nullable=False),
        sa.UniqueConstraint("message_id", "user_id"),
    )
    op.create_table(
        "vote_event",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("message_id", sa.String(), sa.ForeignKey("message.id"), nullable=False),
        sa.Column("user_id", sa.String(), sa.ForeignKey("user_account.id"), nullable=False),
        sa.Column("action", sa.String(), nullable=False),
        sa.Column("label", sa.Boolean()),
        sa.Column("tags", sa.JSON(), nullable=False),
        sa.Column("comment", sa.Text()),
        sa.Column("correction", sa.Text()),
        sa.Column("revision", sa.Integer(), nullable=False),
        sa.Column("created_at", UtcDateTime(), nullable=False),
        sqlite_autoincrement=True,
    )
    op.create_index("ix_vote_event_message_user", "vote_event", ["message_id", "user_id", "id"])
