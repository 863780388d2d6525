"""Users, tokens, chats and settings."""

from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from threading import Barrier

import pytest
from sqlmodel import Session

from storage.chats import chats
from storage.chats.conversation import Turn
from storage.db.database import Database, open_database
from storage.errors import BadSetting, Conflict, InvalidInput, NotAllowed, NotAuthenticated, NotFound
from storage.files.installation_key import load_secret
from storage.people import tokens, users
from storage.privacy.consent import delete_chat
from storage.settings import Settings, load_settings
from tests.support.rows import add_person_with_reply, add_reply


def test_passwords(database: Database) -> None:
    with database.write() as session:
        ada = users.create_user(session, "ada", password="correct horse")
        assert users.verify_password(users.find_user(session, "ada"), "correct horse").id == ada.id
        for name, password in (("ada", "wrong horse"), ("bob", "correct horse")):
            with pytest.raises(NotAuthenticated, match="name or the password"):
                users.verify_password(users.find_user(session, name), password)
        users.set_disabled(session, ada.id, True)
        with pytest.raises(NotAuthenticated):
            users.verify_password(users.find_user(session, "ada"), "correct horse")
        with pytest.raises(Conflict, match="'ada'"):
            users.create_user(session, "ada")
        with pytest.raises(InvalidInput, match="at least 10"):
            users.create_user(session, "eve", password="short")
        with pytest.raises(InvalidInput, match="'root'"):
            users.create_user(session, "eve", role="root")


def test_tokens_are_stored_as_hashes_and_end_when_they_should(database: Database) -> None:
    with database.write() as session:
        ada = users.create_user(session, "ada")
        token, plain = tokens.create_token(session, ada.id, name="laptop")
        assert plain not in str(token.model_dump())
        found = tokens.authenticate(session, plain)
        assert found is not None
        assert found.id == ada.id
        assert tokens.authenticate(session, plain + "x") is None
        _, expired = tokens.create_token(session, ada.id, name="old", ttl=timedelta(seconds=-1))
        assert tokens.authenticate(session, expired) is None
        _, link = tokens.create_token(session, ada.id, name="link", kind="login")
        assert tokens.authenticate(session, link) is None  # a sign-in link is not an API token
        assert tokens.redeem_login(session, link).id == ada.id
        with pytest.raises(NotAuthenticated, match="admin-link"):
            tokens.redeem_login(session, link)
        tokens.revoke_token(session, token.id)
        assert tokens.authenticate(session, plain) is None


def test_chats_belong_to_their_owner_and_page_newest_first(database: Database) -> None:
    with database.write() as session:
        ada, bob = users.create_anonymous(session), users.create_anonymous(session)
        made = [chats.create_chat(session, ada.id, title=str(n)).id for n in range(5)]
        first = [c.id for c in chats.list_chats(session, ada.id, limit=3)]
        rest = [c.id for c in chats.list_chats(session, ada.id, limit=3, before=first[-1])]
        assert first + rest == made[::-1]
        assert chats.list_chats(session, bob.id) == []
        with pytest.raises(NotAllowed, match="somebody else"):
            chats.get_chat(session, made[0], bob.id)
        delete_chat(session, made[0])
        with pytest.raises(NotFound):
            chats.get_chat(session, made[0], ada.id)


def test_a_message_waits_for_the_reply_before_it_and_an_interrupted_reply_is_closed(
    database: Database,
) -> None:
    with database.write() as session:
        _, chat, _ = add_person_with_reply(session)
        assert chat.title == "Why?"
        unfinished = add_reply(session, chat, "Go on.", state="streaming")
        assert chats.recover_interrupted(session, all_servers=True) == 1
        assert chats.recover_interrupted(session, all_servers=True) == 0
        closed = chats.get_message(session, unfinished.id)
        assert (closed.state, closed.finish_reason) == ("failed", "interrupted")
        chats.add_user_message(session, chat.id, "Still there?")
        with pytest.raises(Conflict, match="no reply yet"):
            chats.add_user_message(session, chat.id, "Hello?")
        with pytest.raises(InvalidInput, match="NUL"):
            chats.create_chat(session, chat.owner_id, system_prompt="a\x00b")


def test_the_secret_is_made_once_and_private(tmp_path: Path) -> None:
    secret = load_secret(tmp_path)
    assert load_secret(tmp_path) == secret
    assert (tmp_path / "secret.key").stat().st_mode & 0o077 == 0
    (tmp_path / "secret.key").write_bytes(b"short")
    with pytest.raises(BadSetting, match="damaged"):
        load_secret(tmp_path)


def test_all_who_make_the_secret_at_once_get_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        for number in range(50):
            folder = tmp_path / str(number)
            folder.mkdir()
            begin = Barrier(8)

            def load(folder: Path = folder, begin: Barrier = begin) -> bytes:
                begin.wait()
                return load_secret(folder)

            got = {asked.result() for asked in [pool.submit(load) for _ in range(8)]}
            assert got == {load_secret(folder)}
            assert [path.name for path in folder.iterdir()] == ["secret.key"]


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("THUMBLOOP_PORT", "many", "THUMBLOOP_PORT='many'"),
        ("THUMBLOOP_BATCH_SIZE", "1", "greater than or equal to 2"),
        ("THUMBLOOP_TIMEZONE", "Mars/Base", "='Mars/Base': no time zone .* such as Europe/Berlin"),
        ("THUMBLOOP_port", "1", "THUMBLOOP_port is not a setting. Did you mean THUMBLOOP_PORT"),
        ("THUMBLOOP_AUTHH", "x", "THUMBLOOP_AUTHH is not a setting. Did you mean THUMBLOOP_AUTH"),
    ],
)
def test_a_bad_setting_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(BadSetting, match=words):
        load_settings()


def test_a_data_directory_that_cannot_be_written_and_a_bad_database_address_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(BadSetting, match="THUMBLOOP_DATA_DIR"):
        open_database(Settings(data_dir=tmp_path / "file" / "data"))
    for address in ("nonsense", "mysql://localhost/x"):
        with pytest.raises(BadSetting, match="DATABASE_URL"):
            open_database(Settings(data_dir=tmp_path, database_url=address))


def test_a_drafted_chat_is_stored_whole_though_its_write_ran_twice(database: Database) -> None:
    with database.write() as session:
        ada = users.create_user(session, "ada")
    with database.read() as session:
        chat = chats.draft_chat(session, ada.id, system_prompt="Be brief.", source="openai")
    path = chats.draft_messages(
        chat, [Turn("user", "Hi"), Turn("assistant", "Hello"), Turn("user", "What is a river?")]
    )
    with database.read() as session, pytest.raises(NotFound):
        chats.get_chat(session, chat.id)
    runs: list[int] = []

    def write(session: Session) -> None:
        chats.add_chat(session, chat, path)
        runs.append(len(runs))
        if len(runs) == 1:
            raise InvalidInput("Another write of the group failed.")

    database.submit(write).result()
    assert len(runs) == 2
    with database.read() as session:
        stored = chats.get_chat(session, chat.id, ada.id)
        assert (stored.title, stored.system_prompt, stored.source) == (
            "What is a river?",
            "Be brief.",
            "openai",
        )
        assert [(m.id, m.state) for m in chats.current_path(session, chat.id)] == [
            (path[0].id, "complete"),
            (path[1].id, "given"),
            (path[2].id, "complete"),
        ]
