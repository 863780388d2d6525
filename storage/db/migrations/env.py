"""Alembic's entry point: runs the migrations on the connection that `Database.migrate` passes."""

from alembic import context
from sqlalchemy import create_engine

from storage.db.tables import Table
from storage.db.text_index import is_declared


def run(connection) -> None:  # type: ignore[no-untyped-def]
    context.configure(
        connection=connection,
        target_metadata=Table.metadata,
        render_as_batch=True,
        include_name=is_declared,
    )
    with context.begin_transaction():
        context.run_migrations()
    connection.commit()


connection = context.config.attributes.get("connection")
if connection is None:  # the `alembic` command, run by a developer who writes a migration
    with create_engine(context.config.get_main_option("sqlalchemy.url") or "").connect() as connection:
        run(connection)
else:
    run(connection)
