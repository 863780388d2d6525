"""A chat service with one person and their chat: what the tests of replies stand on."""

from dataclasses import dataclass

from app.chat.service import ChatService
from app.serving.backend import Sampling
from app.serving.deployments import Deployments
from storage.chats import chats
from storage.db.database import Database
from storage.db.tables import Message
from storage.people import users
from storage.registry.artifacts import Artifacts
from tests.support.endless_model import CONTEXT

SHORT = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=12)
LONG = Sampling(temperature=0.9, top_p=0.95, max_new_tokens=CONTEXT)


@dataclass
class Place:
    """A chat service with one person and their chat."""

    service: ChatService
    database: Database
    deployments: Deployments
    artifacts: Artifacts
    user_id: str
    chat_id: str

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
