"""an index finds texts of two characters, as many Chinese words have

Revision 0020, after 0019
"""

from alembic import op

revision = "0020"
down_revision = "0019"

SQLITE = (
    # The trigrams of message_search: a text of two characters is where one begins with it, or at the end.
    "CREATE VIRTUAL TABLE message_search_terms USING fts5vocab('message_search', 'row')",
    """CREATE INDEX ix_message_words_end ON message (lower(substr(content, -2)))
        WHERE state <> 'streaming'""",
)
POSTGRESQL = (
    # Not those of ASCII alone: nearly every text in a European language has most of them. The cost keeps the
    # planner from computing them for every message.
    r"""CREATE OR REPLACE FUNCTION message_bigrams(content text) RETURNS text[]
        LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 10000 AS $$
            SELECT CASE WHEN octet_length(content) > length(content) THEN ARRAY(
                SELECT DISTINCT bigram FROM (
                    SELECT character || lead(character) OVER (ORDER BY place) AS bigram
                    FROM regexp_split_to_table(lower(content), '') WITH ORDINALITY AS one (character, place)
                ) AS pairs WHERE octet_length(bigram) > length(bigram)
            ) ELSE '{}' END
        $$""",
    """CREATE INDEX ix_message_words_bigrams ON message USING gin (message_bigrams(content))
        WHERE state <> 'streaming'""",
)


def upgrade() -> None:
    connection = op.get_bind()
    for statement in SQLITE if connection.dialect.name == "sqlite" else POSTGRESQL:
        connection.exec_driver_sql(statement)
