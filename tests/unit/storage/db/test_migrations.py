"""The migrations build exactly the tables that the code declares, on both engines."""

import json
import sqlite3

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from storage.chats import votes
from storage.db.database import Database
from storage.db.tables import Table
from storage.db.text_index import is_declared, messages_with
from storage.people import users
from storage.privacy import erasure
from storage.registry import model_versions, training_runs
from tests.support import REPOSITORY
from tests.support.rated_store import exported_lines
from tests.support.threads import at_once

# SQLAlchemy cannot read an index over an expression from SQLite; the tests of runs and versions try those.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Skipped unsupported reflection of expression-based index"),
    pytest.mark.filterwarnings("ignore:autogenerate skipping metadata-specified expression-based index"),
]
FIXTURES = REPOSITORY / "tests" / "fixtures"
DECLARED = {"compare_type": True, "include_name": is_declared}
RELEASES = sorted({path.name.split(".")[0] for path in FIXTURES.glob("*.sql")})


def test_the_migrated_schema_is_the_declared_one(database: Database) -> None:
    with database.engine.connect() as connection:
        context = MigrationContext.configure(connection, opts=DECLARED)
        assert compare_metadata(context, Table.metadata) == []


def test_several_servers_may_migrate_one_new_database_at_once(empty_database_url: str) -> None:
    databases = [Database(empty_database_url) for _ in range(4)]
    at_once(database.migrate for database in databases)
    for database in databases:
        database.close()


def restored(address: str, release: str) -> Database:
    """What that release wrote (tests/fixtures/write.py), and nothing migrated yet."""
    database = Database(address)
    sql = (FIXTURES / f"{release}.{database.dialect}.sql").read_text()
    if database.dialect == "sqlite":
        with sqlite3.connect(str(database.path)) as connection:
            connection.executescript(sql)
        connection.close()
    else:
        with database.engine.connect() as connection:
            connection.exec_driver_sql(sql)
            connection.commit()
    return database


def count_rows(connection: sa.Connection, table: str) -> int:
    return connection.execute(sa.select(sa.func.count()).select_from(sa.table(table))).scalar_one()


@pytest.mark.parametrize("release", RELEASES)
def test_a_database_of_an_earlier_release_goes_on_as_if_nothing_had_happened(
    empty_database_url: str, release: str
) -> None:
    database = restored(empty_database_url, release)
    with database.engine.connect() as connection:
        before = MigrationContext.configure(connection).get_current_revision()
        rows = {name: count_rows(connection, name) for name in sa.inspect(connection).get_table_names()}
    database.migrate()
    with database.engine.connect() as connection:
        new = {"run_vote": 2} if release == "0001" else {}  # were a list in the run's snapshot
        assert {name: count_rows(connection, name) for name in rows | new} == rows | new
        context = MigrationContext.configure(connection, opts=DECLARED)
        assert context.get_current_revision() != before
        assert compare_metadata(context, Table.metadata) == []

    if database.dialect == "sqlite":
        with database.engine.connect() as connection:
            made = sa.text("SELECT sql FROM sqlite_master WHERE name = 'vote_event'")
            assert "AUTOINCREMENT" in connection.execute(made).scalar_one()
            assert connection.execute(sa.text("PRAGMA foreign_key_check")).all() == []

    with database.engine.connect() as connection:
        ids = set(connection.scalars(sa.text("SELECT id FROM user_account")))
        for table, column in (("audit_event", "actor"), ("deployment", "by"), ("canary", "by")):
            actors = set(connection.scalars(sa.text(f'SELECT "{column}" FROM {table}')))
            assert actors <= ids | {"erased", "gate", "thumbloop", "trainer", "command line"}

    with database.write() as session:
        assert votes.count_votes(session) == votes.VoteCounts(up=2, down=1)
        assert votes.latest_event_id(session) == 7
        assert model_versions.deployed_version(session).name == "v2"
        assert training_runs.last_trained_event_id(session) == 7
        rows = [json.loads(line) for line in exported_lines(session, 7)]
        assert messages_with(session, "aris. 🙂") == [rows[0]["message_id"]]
        assert [(row["completion"][0]["content"], row["label"]) for row in rows] == [
            ("Paris. 🙂", True),
            ("Bonn.", False),
            ("Berlin.", True),
        ]
        assert [message["role"] for message in rows[1]["prompt"]] == ["system", "user", "assistant", "user"]
        assert json.loads(rows[1]["tags"]) == ["wrong"]

        ada = users.find_user(session, "ada")
        assert ada is not None
        votes.cast_vote(session, user_id=ada.id, message_id=rows[0]["message_id"], label=False)
        assert votes.count_votes(session) == votes.VoteCounts(up=1, down=2)
        assert votes.latest_event_id(session) == 8
        report = erasure.erase_user(session, ada.id, by="root")
        assert (report.votes, report.affected_versions) == (3, ["v2"])
    database.close()


def test_both_engines_have_every_release() -> None:
    assert RELEASES
    for release in RELEASES:
        assert {path.name for path in FIXTURES.glob(f"{release}.*")} == {
            f"{release}.{engine}.sql" for engine in ("sqlite", "postgresql")
        }
