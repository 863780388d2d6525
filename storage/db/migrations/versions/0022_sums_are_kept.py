"""sums of votes and replies are kept, and triggers note where they may change

Revision 0022, after 0021
"""

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"

NOTE = "INSERT INTO changed_sum (bucket)"
# By table: the events, what of the row names the replies, and when it matters. Votes have a log of their own.
REPLY, VOTE = "substr({row}.id, 1, 7)", "substr({row}.message_id, 1, 7)"
OF_CHAT = "DISTINCT substr(id, 1, 7) FROM message WHERE chat_id = {row}.id"
OF_PERSON = "DISTINCT substr(message_id, 1, 7) FROM vote WHERE user_id = {row}.id"
TRIGGERS = (
    ("vote", "DELETE", VOTE, ""),
    ("message", "INSERT", REPLY, "NEW.model_version_id IS NOT NULL AND NEW.state <> 'streaming'"),
    ("message", "UPDATE OF state, model_version_id", REPLY, "NEW.state <> 'streaming'"),
    ("message", "DELETE", REPLY, ""),
    ("chat", "UPDATE OF consent, deleted_at, source", OF_CHAT, ""),
    ("user_account", "UPDATE OF quarantined", OF_PERSON, ""),
)


def upgrade() -> None:
    op.create_table(
        "vote_sum",
        sa.Column("bucket", sa.String(), primary_key=True),
        sa.Column("kind", sa.String(), primary_key=True),
        sa.Column("name", sa.String(), primary_key=True),
        sa.Column("replies", sa.Integer(), nullable=False),
        sa.Column("up", sa.Float(), nullable=False),
        sa.Column("down", sa.Float(), nullable=False),
    )
    op.create_table(
        "changed_sum",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("bucket", sa.String(), nullable=False),
    )
    op.create_table(
        "sum_cursor",
        sa.Column("id", sa.Integer(), primary_key=True),
        sa.Column("event_id", sa.Integer(), nullable=False),
    )
    op.execute("INSERT INTO sum_cursor (id, event_id) SELECT 1, coalesce(max(id), 0) FROM vote_event")
    connection = op.get_bind()
    for number, (table, event, source, condition) in enumerate(TRIGGERS):
        row = "OLD" if event == "DELETE" else "NEW"
        note = f"{NOTE} SELECT {source.format(row=row)};"
        name, when = f"sum_{table}_{number}", f"WHEN ({condition})" if condition else ""
        after = f"CREATE TRIGGER {name} AFTER {event} ON {table}"
        if connection.dialect.name == "sqlite":
            connection.exec_driver_sql(f"{after} {when} BEGIN {note} END")
            continue
        connection.exec_driver_sql(
            f"CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN {note} RETURN NULL; END $$"
        )
        connection.exec_driver_sql(f"{after} FOR EACH ROW {when} EXECUTE FUNCTION {name}()")
    # The server counts what is there already, while it runs.
    connection.exec_driver_sql(
        f"{NOTE} SELECT DISTINCT substr(id, 1, 7) FROM message WHERE role = 'assistant'"
    )
