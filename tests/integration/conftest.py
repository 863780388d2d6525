"""A server that all tests of one module share; chat services and deployments without one."""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import pytest

from app.chat.service import ChatService
from app.serving.deployments import Deployments
from app.serving.local.backend import LocalBackend
from storage.chats import chats
from storage.db.database import Database
from storage.db.tables import ModelVersion
from storage.people import users
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts
from storage.settings import Settings
from tests.support.adapters import publish_adapter
from tests.support.chat_env import ChatEnv
from tests.support.endless_model import CONTEXT, build_endless_model
from tests.support.live_server import LiveServer
from tests.support.tiny_model import build_tiny_model
from trainer.model.base_model import resolve
from trainer.runs.schedule import Schedule


@pytest.fixture(scope="module")
def shared_server(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Iterator[LiveServer]:
    """Its tests leave it as they found it, or do not care."""
    server = LiveServer({"data_dir": tmp_path_factory.mktemp("shared") / "data", "model": str(tiny_model)})
    server.start()
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client() as client:
        yield client


@pytest.fixture(scope="module")
def stranger(shared_server: LiveServer) -> Iterator[httpx.Client]:
    with shared_server.client("user", "eve") as client:
        yield client


@pytest.fixture(scope="session")
def endless_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_endless_model(tmp_path_factory.mktemp("model") / "endless")


@pytest.fixture
def make_env(
    settings: Settings, database: Database, endless_folder: Path
) -> Iterator[Callable[..., ChatEnv]]:
    stops: list[Callable[[], None]] = []

    def make(**changes: object) -> ChatEnv:
        changed = settings.model_copy(
            update={"model": str(endless_folder), "precision": "fp32", "max_new_tokens": CONTEXT, **changes}
        )
        artifacts = Artifacts(changed.data_dir)
        with database.write() as session:
            model_versions.ensure_base(session, str(endless_folder))
            user = users.create_anonymous(session)
            chat = chats.create_chat(session, user.id, system_prompt="Be brief.")
        backend = LocalBackend(changed, resolve(changed))
        deployments = Deployments(
            database, artifacts, backend, max_loaded_versions=changed.max_loaded_versions
        )
        deployments.start()
        service = ChatService(database, deployments, changed)
        stops.extend((service.close, deployments.stop, backend.close))
        return ChatEnv(service, database, deployments, artifacts, backend, user.id, chat.id)

    yield make
    for stop in stops:
        stop()


@pytest.fixture
def env(make_env: Callable[..., ChatEnv]) -> ChatEnv:
    return make_env()


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_model(tmp_path_factory.mktemp("model") / "tiny", stops=False)


@pytest.fixture
def artifacts(settings: Settings) -> Artifacts:
    return Artifacts(settings.data_dir)


@pytest.fixture
def publish(database: Database, artifacts: Artifacts, model_folder: Path) -> Callable[..., ModelVersion]:
    """Make v2, v3 and so on; v1 is there already."""
    with database.write() as session:
        model_versions.ensure_base(session, str(model_folder))

    def make(state: str = "ready", **how: Any) -> ModelVersion:
        with database.read() as session:
            count = len(model_versions.list_versions(session))
        return publish_adapter(database, artifacts, model_folder, seed=count, state=state, **how)

    return make


@pytest.fixture
def backend(settings: Settings, model_folder: Path) -> Iterator[LocalBackend]:
    with_model = settings.model_copy(update={"model": str(model_folder), "precision": "fp32"})
    backend = LocalBackend(with_model, resolve(with_model))
    yield backend
    backend.close()


@pytest.fixture
def deployments(
    settings: Settings,
    database: Database,
    artifacts: Artifacts,
    backend: LocalBackend,
    publish: Callable[..., ModelVersion],
) -> Iterator[Deployments]:
    """Not started, so that a test can prepare the database; stopped at the end."""
    deployments = Deployments(database, artifacts, backend, max_loaded_versions=settings.max_loaded_versions)
    yield deployments
    deployments.stop()


@pytest.fixture
def open_schedule(database: Database) -> Iterator[Callable[..., Schedule]]:
    schedules: list[Schedule] = []

    def open_one(settings: Settings, **clock: Callable[[], datetime]) -> Schedule:
        schedules.append(Schedule(database, settings, **clock))
        return schedules[-1]

    yield open_one
    for schedule in schedules:
        schedule.stop()
