"""chats are pinned, and an index finds rare texts in messages

Revision 0015, after 0014
"""

import logging

import sqlalchemy as sa
from alembic import op

log = logging.getLogger("thumbloop.storage")

revision = "0015"
down_revision = "0014"

# A message is indexed once it has ended: while a reply streams, its text is stored every few seconds.
ADD = """
    INSERT OR IGNORE INTO message_text (message_id)
        SELECT NEW.id WHERE NEW.state <> 'streaming' AND NEW.content <> '';
    INSERT INTO message_search (rowid, content)
        SELECT number, NEW.content FROM message_text
        WHERE message_id = NEW.id AND NEW.state <> 'streaming' AND NEW.content <> '';
"""
# What is removed from the index must be what was added to it: it keeps no copy of the texts.
REMOVE = """
    INSERT INTO message_search (message_search, rowid, content)
        SELECT 'delete', number, OLD.content FROM message_text
        WHERE message_id = OLD.id AND OLD.state <> 'streaming' AND OLD.content <> '';
"""
SQLITE = (
    # Numbers of its own, because VACUUM gives the rows of `message` new ones.
    "CREATE TABLE message_text (number INTEGER PRIMARY KEY, message_id TEXT NOT NULL UNIQUE)",
    "CREATE VIRTUAL TABLE message_search USING fts5(content, content='', detail=none, tokenize='trigram')",
    f"CREATE TRIGGER message_text_added AFTER INSERT ON message BEGIN {ADD} END",
    f"""CREATE TRIGGER message_text_changed AFTER UPDATE OF content, state ON message
        WHEN OLD.state <> 'streaming' OR NEW.state <> 'streaming' BEGIN {REMOVE} {ADD} END""",
    f"""CREATE TRIGGER message_text_removed AFTER DELETE ON message
        BEGIN {REMOVE} DELETE FROM message_text WHERE message_id = OLD.id; END""",
    """INSERT INTO message_text (message_id)
        SELECT id FROM message WHERE state <> 'streaming' AND content <> ''""",
    """INSERT INTO message_search (rowid, content)
        SELECT number, content FROM message_text JOIN message ON message.id = message_id""",
)
POSTGRESQL = (
    "CREATE EXTENSION IF NOT EXISTS pg_trgm",
    "CREATE INDEX ix_message_words ON message USING gin (content gin_trgm_ops) WHERE state <> 'streaming'",
)
WITHOUT = (
    "Searches read every message: PostgreSQL's extension pg_trgm cannot be created (%s). "
    "docs/docker.md says how to create it and its index later."
)


def upgrade() -> None:
    pinned = sa.text("pinned_at IS NOT NULL")
    op.add_column("chat", sa.Column("pinned_at", sa.DateTime(), nullable=True))
    op.create_index(
        "ix_chat_pinned", "chat", ["owner_id", "id"], sqlite_where=pinned, postgresql_where=pinned
    )
    said = sa.text("comment IS NOT NULL OR correction IS NOT NULL")
    op.create_index("ix_vote_said", "vote", ["id"], sqlite_where=said, postgresql_where=said)
    connection = op.get_bind()
    if connection.dialect.name == "sqlite":
        for statement in SQLITE:
            connection.exec_driver_sql(statement)
        return
    try:
        with connection.begin_nested():
            for statement in POSTGRESQL:
                connection.exec_driver_sql(statement)
    except sa.exc.DBAPIError as error:
        log.warning(WITHOUT, str(error.orig).splitlines()[0])
