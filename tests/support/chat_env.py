"""A chat service with one person and their chat: what the tests of replies stand on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from app.chat.live_reply import LiveReply
from app.chat.service import ChatService
from app.serving.deployments import Deployments
from app.serving.local.backend import LocalBackend
from app.serving.reply import Sampling
from storage.chats import chats
from storage.db.database import Database
from storage.db.tables import Message, ModelVersion
from storage.people import users
from storage.registry import model_versions
from storage.registry.artifacts import Artifacts
from tests.support.adapters import publish_adapter
from tests.support.endless_model import CONTEXT

HELLO = [{"role": "user", "content": "Hello, who are you?"}]
SAMPLING = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=16, seed=3)
SHORT = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=12)
LONG = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=CONTEXT)


MakeEnv = Callable[..., "ChatEnv"]
MakeServing = Callable[..., "ServingEnv"]


@dataclass
class ChatEnv:
    """A chat service with one person and their chat."""

    service: ChatService
    database: Database
    deployments: Deployments
    artifacts: Artifacts
    backend: LocalBackend
    user_id: str
    chat_id: str

    def send(self, content: str = "Hello", *, sampling: Sampling = SHORT, **more: Any) -> LiveReply:
        """The person's message in their chat, and the reply that is on its way."""
        return self.service.send(self.user_id, self.chat_id, content, sampling=sampling, **more)

    def regenerate(self, reply_id: str) -> Message:
        return self.service.regenerate(self.user_id, reply_id, sampling=SHORT).message()

    def path(self) -> list[Message]:
        with self.database.read() as session:
            return chats.current_path(session, self.chat_id)

    def stored(self, message_id: str) -> Message:
        with self.database.read() as session:
            return chats.get_message(session, message_id)

    def new_chat(self, user_id: str | None = None) -> str:
        with self.database.write() as session:
            return chats.create_chat(session, user_id or self.user_id).id

    def new_person(self) -> str:
        with self.database.write() as session:
            return users.create_anonymous(session).id


@dataclass
class ServingEnv:
    """The versions in a database, and a backend with slots for some of them; v1 is there."""

    database: Database
    artifacts: Artifacts
    backend: LocalBackend
    deployments: Deployments
    model: Path

    def publish(self, state: str = "ready", **how: Any) -> ModelVersion:
        """Make v2, v3 and so on."""
        with self.database.read() as session:
            count = len(model_versions.list_versions(session))
        return publish_adapter(self.database, self.artifacts, self.model, seed=count, state=state, **how)


def alias(database: Database) -> str:
    with database.read() as session:
        return model_versions.deployed_version(session).name


def move_alias(database: Database, name: str) -> None:
    """As the gate and the command line do: in the database alone."""
    with database.write() as session:
        model_versions.deploy_version(session, name, by="gate", why="passed")


def reply(deployments: Deployments) -> tuple[str, str]:
    version, stream = deployments.stream(HELLO, SAMPLING)
    return version.name, stream.end.content


def damage(artifacts: Artifacts, version: ModelVersion) -> Path:
    """Append one byte; returns the file."""
    assert version.path is not None
    file = artifacts.folder(version.path) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes() + b"x")
    return file
