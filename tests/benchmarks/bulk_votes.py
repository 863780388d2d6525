"""Votes by the million, made within a PostgreSQL database: chats of two turns, each regenerated and rated."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from storage.db.ids import new_id

REPLIES = 4  # of a chat
PEOPLE, DAYS = 1000, 365
AT_ONCE = 100_000  # chats

TABLES = (
    "CREATE TEMP TABLE text_made (number int PRIMARY KEY, content text)",
    "CREATE TEMP TABLE person_made (number int PRIMARY KEY, id text)",
    "CREATE TEMP TABLE chat_made (n bigint, at timestamp, owner text, head text)",
    """CREATE TEMP TABLE turn AS SELECT * FROM (VALUES
        (1, 'user', NULL), (2, 'assistant', 1), (3, 'assistant', 1),
        (4, 'user', 2), (5, 'assistant', 4), (6, 'assistant', 4)) AS turn (k, role, parent)""",
    # The rows fit together by construction; their foreign keys would take longer than all the rest.
    "SET session_replication_role = replica",
    "SET synchronous_commit = off",
)
USERS = """INSERT INTO user_account (id, created_at, role, disabled)
    SELECT id, :beginning, 'user', false FROM person_made"""
# Of the chats from :first to :last. An id begins with its time, as ours do, and ends with its own number.
BATCH = (
    "TRUNCATE chat_made",
    """INSERT INTO chat_made
        SELECT n, at, person_made.id, substr(ms, 1, 8) || '-' || substr(ms, 9, 4) || '-7000-8000-'
        FROM generate_series(CAST(:first AS bigint), :last) AS n
        CROSS JOIN LATERAL (SELECT CAST(:beginning AS timestamp) + n * CAST(:gap AS interval)) AS a (at)
        CROSS JOIN LATERAL lpad(to_hex(CAST(1000 * extract(epoch FROM at) AS bigint)), 12, '0') AS ms
        JOIN person_made ON person_made.number = abs(hashint8(n)) % :people""",
    """INSERT INTO chat (id, created_at, owner_id, title, system_prompt, consent, source, updated_at)
        SELECT {chat}, at, owner, left(content, 40), '', true, 'web', at
        FROM chat_made JOIN text_made ON number = n % :texts""",
    """INSERT INTO message (id, created_at, chat_id, parent_id, role, content, state, model_version_id)
        SELECT {message}, at, {chat}, {parent}, role, content, 'complete',
            CASE role WHEN 'assistant' THEN :version END
        FROM chat_made CROSS JOIN turn JOIN text_made ON number = abs(hashint8(20 * n + k)) % :texts""",
    """CREATE TEMP TABLE vote_made AS
        SELECT {vote} AS id, {message} AS message, owner, up, at,
            CAST(CASE WHEN up OR chance % 2 = 0 THEN '[]' ELSE '["wrong"]' END AS json) AS tags,
            CASE WHEN chance % 20 = 0 THEN :comment END AS comment
        FROM chat_made CROSS JOIN turn
        CROSS JOIN LATERAL abs(hashint8(20 * n + k + 10)) AS chance
        CROSS JOIN LATERAL (SELECT chance / 64 % 10 < 7) AS b (up)
        WHERE role = 'assistant' ORDER BY n, k""",
    """INSERT INTO vote (id, created_at, message_id, user_id, label, tags, comment, revision, updated_at)
        SELECT id, at, message, owner, up, tags, comment, 1, at FROM vote_made""",
    """INSERT INTO vote_event (message_id, user_id, action, label, tags, comment, revision, created_at)
        SELECT message, owner, 'cast', up, tags, comment, 1, at FROM vote_made""",
    "DROP TABLE vote_made",
)
NUMBERED = "head || lpad(to_hex(20 * n + {}), 12, '0')"
IDS = {"chat": "0", "message": "k", "parent": "parent", "vote": "10 + k"}


def make_votes(engine: sa.Engine, version: str, texts: Sequence[str], comment: str, votes: int) -> None:
    """Rows of the chats of PEOPLE new people, cast within a year; columns of the schema 0014 and later."""
    chats = votes // REPLIES
    beginning = datetime.now(UTC).replace(tzinfo=None) - timedelta(DAYS)
    values = {
        "beginning": beginning,
        "gap": timedelta(DAYS) / chats,
        "people": PEOPLE,
        "texts": len(texts),
        "version": version,
        "comment": comment,
    }
    people: list[dict[str, Any]] = [{"number": number, "id": new_id()} for number in range(PEOPLE)]
    ids = {name: NUMBERED.format(number) for name, number in IDS.items()}
    statements = [sa.text(statement.format(**ids)) for statement in BATCH]
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        for statement in TABLES:
            connection.exec_driver_sql(statement)
        connection.execute(sa.text("INSERT INTO person_made VALUES (:number, :id)"), people)
        connection.execute(sa.text(USERS), {"beginning": beginning})
        numbered: list[dict[str, Any]] = [
            {"number": number, "content": text} for number, text in enumerate(texts)
        ]
        connection.execute(sa.text("INSERT INTO text_made VALUES (:number, :content)"), numbered)
        connection.exec_driver_sql("ANALYZE text_made")
        for first in range(0, chats, AT_ONCE):
            batch = {"first": first, "last": min(first + AT_ONCE, chats) - 1}
            for one in statements:
                connection.execute(one, values | batch)
