"""A server that all tests of one module share; chat services and deployments without one."""

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import httpx
import pytest

from app.chat.service import ChatService
from app.serving.deployments import Deployments
from app.serving.local.backend import LocalBackend
from storage.chats import chats
from storage.db.database import Database, open_database
from storage.people import users
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts
from storage.registry.stored_artifacts import open_artifacts
from storage.settings import Settings
from tests.support.chat_env import ChatEnv, MakeEnv, MakeServing, ServingEnv
from tests.support.command_line import CommandLine
from tests.support.endless_model import CONTEXT
from tests.support.live_server import LiveServer
from tests.support.training_env import Build, training_envs
from trainer.model.base_model import resolve
from trainer.runs.schedule import Schedule


@pytest.fixture(scope="module")
def server_settings() -> dict[str, object]:
    """What a module's shared server has of its own."""
    return {}


@pytest.fixture(scope="module")
def shared_server(
    tmp_path_factory: pytest.TempPathFactory, tiny_model: Path, server_settings: dict[str, object]
) -> Iterator[LiveServer]:
    """Its tests leave it as they found it, or do not care."""
    folder = tmp_path_factory.mktemp("shared") / "data"
    with LiveServer({"data_dir": folder, "model": str(tiny_model), **server_settings}) as server:
        yield server


@pytest.fixture(scope="module")
def endless_server(tmp_path_factory: pytest.TempPathFactory, endless_model: Path) -> Iterator[LiveServer]:
    """Its replies outlast every test."""
    folder = tmp_path_factory.mktemp("endless") / "data"
    with LiveServer({"data_dir": folder, "model": endless_model, "max_new_tokens": 100_000}) as server:
        yield server


@pytest.fixture(scope="module")
def store(shared_server: LiveServer) -> Iterator[Database]:
    """The database of the shared server."""
    database = open_database(shared_server.settings)
    yield database
    database.close()


@pytest.fixture(scope="module")
def client(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def stranger(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client("user", "eve") as client:
        yield client


@pytest.fixture(scope="session")
def faketime() -> Path:
    """The library that gives a program another clock."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketime.so.1"))
    if not found:
        message = "libfaketime is not installed: apt-get install faketime."
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found[0]


@pytest.fixture
def thumbloop(tmp_path: Path, tiny_model: Path) -> Iterator[CommandLine]:
    yield CommandLine(tmp_path / "data", tiny_model)
    LiveServer({"data_dir": tmp_path / "data"}).close()  # ends a trainer that a failed test left running


@pytest.fixture
def build(tmp_path: Path, tiny_model: Path) -> Iterator[Build]:
    """Databases with votes, which trainers work on."""
    with training_envs(tmp_path, tiny_model) as build:
        yield build


@pytest.fixture
def make_env(settings: Settings, database: Database, endless_model: Path) -> Iterator[MakeEnv]:
    with ExitStack() as closing:

        def make(**changes: object) -> ChatEnv:
            own = {"model": str(endless_model), "precision": "fp32", "max_new_tokens": CONTEXT}
            changed = settings.model_copy(update=own | changes)
            artifacts = Artifacts(changed.data_dir)
            with database.write() as session:
                model_versions.ensure_base(session, str(endless_model))
                user = users.create_anonymous(session)
                chat = chats.create_chat(session, user.id, system_prompt="Be brief.")
            backend, most = LocalBackend(changed, resolve(changed)), changed.max_loaded_versions
            closing.callback(backend.close)
            deployments = Deployments(database, artifacts, backend, max_loaded_versions=most)
            deployments.start()
            closing.callback(deployments.stop)
            service = ChatService(database, deployments, changed)
            service.start()
            closing.callback(service.close)
            return ChatEnv(service, database, deployments, artifacts, backend, user.id, chat.id)

        yield make


@pytest.fixture
def env(make_env: MakeEnv) -> ChatEnv:
    return make_env()


@pytest.fixture
def make_serving(settings: Settings, database: Database, talkative_model: Path) -> Iterator[MakeServing]:
    """make_serving(2) has slots for two versions. Not started, so that a test can prepare the database."""
    chosen = settings.model_copy(update={"model": str(talkative_model), "precision": "fp32"})
    with ExitStack() as closing:

        def make(max_loaded_versions: int = settings.max_loaded_versions, **changes: object) -> ServingEnv:
            with database.write() as session:
                model_versions.ensure_base(session, chosen.model)
            artifacts = open_artifacts(chosen.model_copy(update=changes), database)
            backend = LocalBackend(chosen, resolve(chosen))
            closing.callback(backend.close)
            deployments = Deployments(database, artifacts, backend, max_loaded_versions=max_loaded_versions)
            closing.callback(deployments.stop)
            return ServingEnv(database, artifacts, backend, deployments, talkative_model)

        yield make


@pytest.fixture
def serving(make_serving: MakeServing) -> ServingEnv:
    return make_serving()


@pytest.fixture
def open_schedule(database: Database) -> Iterator[Callable[..., Schedule]]:
    with ExitStack() as closing:

        def open_one(settings: Settings, **clock: Callable[[], datetime]) -> Schedule:
            schedule = Schedule(database, settings, **clock)
            closing.callback(schedule.stop)
            return schedule

        yield open_one
