"""A server's parts together: what a start tidies up, what a stop keeps, and what is refused."""

from pathlib import Path

import pytest

from app.services import build_services
from storage.chats import chats
from storage.db.database import open_database
from storage.errors import Conflict, ModelUnavailable
from storage.people import users
from storage.registry import model_versions, training_runs
from storage.settings import Settings


@pytest.fixture
def tiny_settings(tmp_path: Path, tiny_model: Path) -> Settings:
    return Settings(data_dir=tmp_path / "data", model=str(tiny_model), schedule="", max_new_tokens=8)


def test_a_start_tidies_up_after_a_killed_server_and_a_stop_loses_nothing(tiny_settings: Settings) -> None:
    database = open_database(tiny_settings)
    with database.write() as session:
        base = model_versions.ensure_base(session, tiny_settings.model)
        person = users.create_anonymous(session)
        chat = chats.create_chat(session, person.id)
        question = chats.add_user_message(session, chat.id, "Hello")
        cut_off = chats.begin_reply(session, chat.id, question.id, model_version_id=base.id, sampling={})
    database.close()
    orphan = tiny_settings.data_dir / "adapters" / "nobody.tmp"
    orphan.mkdir(parents=True)

    services = build_services(tiny_settings)
    services.start()
    assert not orphan.exists()
    with services.database.read() as session:
        assert chats.get_message(session, cut_off.id).finish_reason == "interrupted"
    live = services.chat_service.regenerate(person.id, cut_off.id)
    services.stop()

    database = open_database(tiny_settings)
    with database.read() as session:
        reply = chats.get_message(session, live.message_id)
        assert reply.state in ("complete", "stopped")
        assert training_runs.active_run(session) is None
    database.close()


def test_another_base_model_on_the_same_database_is_refused(
    tiny_settings: Settings, tiny_model: Path, tmp_path: Path
) -> None:
    services = build_services(tiny_settings)
    services.database.close()
    copy = tmp_path / "other"
    copy.symlink_to(tiny_model)
    with pytest.raises(Conflict, match="was made for the model"):
        build_services(tiny_settings.model_copy(update={"model": str(copy)}))


def test_another_database_is_refused_before_anything_of_the_data_directory_is_touched(
    tiny_settings: Settings, tmp_path: Path
) -> None:
    build_services(tiny_settings).database.close()
    trained = tiny_settings.data_dir / "adapters" / "run"
    trained.mkdir(parents=True)
    other = tiny_settings.model_copy(update={"database_url": f"sqlite:///{tmp_path}/other.db"})
    with pytest.raises(Conflict, match="belongs to the installation .* is new: set THUMBLOOP_DATABASE_URL"):
        build_services(other)
    (tiny_settings.data_dir / "installation.id").unlink()
    with pytest.raises(Conflict, match="holds 1 trained adapters"):
        build_services(other)
    assert trained.is_dir()
    build_services(tiny_settings).database.close()


def test_a_missing_model_is_told_before_anything_is_served(tiny_settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable, match="nowhere"):
        build_services(tiny_settings.model_copy(update={"model": str(tmp_path / "nowhere")}))
