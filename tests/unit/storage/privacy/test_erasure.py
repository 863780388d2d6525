"""Erasing a person: nothing of theirs is left anywhere, and models that learned from it are marked."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from app.background.housekeeping import Housekeeping
from storage.chats import chats, signals, votes
from storage.db.database import Database
from storage.db.tables import Message, Table, VoteSum, now
from storage.errors import Conflict
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.files.installation_key import load_secret
from storage.people import users
from storage.privacy import erasure
from storage.privacy.consent import delete_chat
from storage.registry import model_versions
from storage.settings import Settings
from tests.support.databases import waiting
from tests.support.live_server import wait_until
from tests.support.rated_store import SALT, exported_lines
from tests.support.rows import add_person_with_reply, add_reply, audit_events, publish_candidate
from tests.support.threads import at_once

SECRET_WORD = "xylophone"


def everything(database: Database) -> str:
    """Every value of every table, as one text."""
    with database.read() as session:
        return "\n".join(
            str(row) for table in Table.metadata.sorted_tables for row in session.execute(sa.select(table))
        )


def sums_are_kept(database: Database) -> bool:
    with database.read() as session:
        return session.execute(sa.select(VoteSum.kind)).first() is not None


def export(database: Database, snapshot: int, tmp_path: Path) -> list[str]:
    with database.read() as session:
        return exported_lines(session, snapshot, load_secret(tmp_path))


def test_nothing_of_an_erased_person_is_left_and_their_models_are_marked(
    database: Database, tmp_path: Path
) -> None:
    with database.write() as session:
        kept, _, kept_reply = add_person_with_reply(session, label=True)
        vote = {"label": False, "tags": [SECRET_WORD], "comment": SECRET_WORD, "correction": SECRET_WORD}
        gone, chat, reply = add_person_with_reply(session, f"Speak of the {SECRET_WORD}.", **vote)
        add_reply(session, chat, f"A {SECRET_WORD}?", f"The {SECRET_WORD}!")
        snapshot = votes.latest_event_id(session)
        publish_candidate(session, [(reply.id, gone.id), (kept_reply.id, kept.id)])
    assert SECRET_WORD in everything(database)
    before = export(database, snapshot, tmp_path)
    with database.write() as session:
        report = erasure.erase_user(session, gone.id, by="admin")
    assert (report.chats, report.messages, report.votes) == (1, 4, 1)
    assert report.affected_versions == ["v2"]
    assert SECRET_WORD not in everything(database)
    assert export(database, snapshot, tmp_path) == before[:1]
    with database.write() as session:
        assert model_versions.get_version(session, "v2").erased_votes == 1
        assert audit_events(session)[0].action == "erase_user"
        with pytest.raises(Conflict, match="already"):
            erasure.erase_user(session, gone.id, by="admin")
        admin = users.create_user(session, "root", role="admin")
        with pytest.raises(Conflict, match="is an admin"):
            erasure.erase_user(session, admin.id, by="admin")


def old_chats(database: Database, number: int) -> list[str]:
    """Chats of a hundred days ago, each with a vote; every other one deleted by its owner since."""
    made = []
    with database.write() as session:
        for index in range(number):
            person, chat, reply = add_person_with_reply(session, system_prompt=f"Of the {SECRET_WORD}.")
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True, comment=SECRET_WORD)
            if index % 2:
                delete_chat(session, chat.id)
            chat.updated_at = now() - timedelta(days=100)
            session.add(chat)
            made.append(chat.id)
    return made


def test_retention_erases_what_nobody_has_written_in_since(database: Database, tmp_path: Path) -> None:
    old_chats(database, 5)
    with database.write() as session:
        person, fresh, reply = add_person_with_reply(session)
        signals.record_signal(session, user_id=person.id, message_id=reply.id, kind="copied")
    moment = now() - timedelta(days=90)
    with database.read() as session:
        found = erasure.count_before(session, moment)
        every = erasure.count_before(session, now())
    assert (found.chats, found.messages, found.votes, found.signals) == (5, 10, 5, 0)
    assert (every.chats, every.signals) == (6, 1)
    with database.write() as session:
        batch = erasure.erase_before(session, moment, by="retention", limit=2)
        assert (batch.chats, batch.votes) == (2, 2)
    with database.read() as session:
        export_to(tmp_path / "rows.jsonl", Export(session, ExportPlan(), salt=SALT))
    report = erasure.forget_before(database, tmp_path, moment, by="retention")
    assert (report.chats, report.messages, report.votes) == (3, 6, 3)
    assert not (tmp_path / "rows.jsonl").exists()
    assert SECRET_WORD not in everything(database)
    with database.read() as session:
        export_to(tmp_path / "rows.jsonl", Export(session, ExportPlan(), salt=SALT))
        before = len(audit_events(session))
    assert erasure.forget_before(database, tmp_path, moment, by="retention").chats == 0
    with database.read() as session:
        assert len(audit_events(session)) == before == 2
        assert votes.count_votes(session) == votes.VoteCounts(0, 0)
        assert chats.get_chat(session, fresh.id).deleted_at is None
    assert (tmp_path / "rows.jsonl").exists()  # nothing of it was erased


def test_deleted_chats_are_erased_after_their_days(database: Database, settings: Settings) -> None:
    with database.write() as session:
        for days in (0, 29, 31):
            person, chat, reply = add_person_with_reply(session, system_prompt=SECRET_WORD)
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True)
            if days:
                delete_chat(session, chat.id)
                chat.deleted_at = now() - timedelta(days=days)
    assert settings.deleted_chat_days == 30
    housekeeping = Housekeeping(database, settings)
    housekeeping.start()
    wait_until(lambda: everything(database).count(SECRET_WORD) == 2)
    housekeeping.stop()
    with database.read() as session:
        assert [event.detail["chats"] for event in audit_events(session)] == [1]


def test_several_servers_may_forget_at_once(database: Database, tmp_path: Path) -> None:
    old_chats(database, 12)

    def forget() -> int:
        return erasure.forget_before(database, tmp_path, now(), by="retention").chats

    removed = at_once([forget] * 3)
    assert sum(removed) == 12


def test_a_server_forgets_by_itself_when_it_is_told_to(database: Database, settings: Settings) -> None:
    old_chats(database, 2)
    kept = Housekeeping(database, settings)
    kept.start()
    wait_until(lambda: sums_are_kept(database))
    kept.stop()
    assert SECRET_WORD in everything(database)
    forgetful = Housekeeping(database, settings.model_copy(update={"retention_days": 90}))
    forgetful.start()
    wait_until(lambda: SECRET_WORD not in everything(database))
    forgetful.stop()


def test_an_error_of_the_database_says_nothing_of_what_was_written(database: Database) -> None:
    with pytest.raises(sa.exc.IntegrityError) as error, database.write() as session:
        session.add(Message(chat_id="none", role="user", content=SECRET_WORD))
    assert SECRET_WORD not in str(error.value)


def test_exports_in_the_data_directory_are_copies_and_go_too(database: Database, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "manifest.json").write_text('{"files": {}}')  # of something else
    with database.read() as session:
        for name, format in (("rows.csv", "csv"), ("mine/rows.jsonl", "jsonl"), ("folder", "datasets")):
            export_to(
                tmp_path / name, Export(session, ExportPlan.model_validate({"format": format}), salt=SALT)
            )
    removed = erasure.remove_copies(database, tmp_path)
    assert set(removed) == {tmp_path / name for name in ("rows.csv", "mine/rows.jsonl", "folder")}
    assert [file.name for file in (tmp_path / "mine").iterdir()] == ["manifest.json"]
    assert not [file for file in tmp_path.iterdir() if file.name.startswith(("rows", "folder"))]
    assert erasure.remove_copies(database, tmp_path) == []


def test_no_file_of_the_database_holds_what_was_erased(database: Database, tmp_path: Path) -> None:
    if database.path is None:
        pytest.skip("PostgreSQL's files are its administrator's")
    with database.write() as session:
        person, _, reply = add_person_with_reply(session, system_prompt=SECRET_WORD)
        votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True, comment=SECRET_WORD)
    files = [database.path, database.path.with_name(f"{database.path.name}-wal")]
    assert any(SECRET_WORD.encode() in file.read_bytes() for file in files)
    with database.write() as session:
        erasure.erase_user(session, person.id, by="admin")
    erasure.remove_copies(database, tmp_path)
    assert not any(SECRET_WORD.encode() in file.read_bytes() for file in files)


def test_a_reply_that_ends_while_its_person_is_being_erased_is_not_written_back(database: Database) -> None:
    with database.write() as session:
        person, chat, _ = add_person_with_reply(session)
        reply = add_reply(session, chat, state="streaming")

    def finish() -> None:
        with database.write() as session:
            chats.finish_reply(
                session,
                reply.id,
                content=SECRET_WORD,
                state="complete",
                finish_reason="stop",
                token_ids=[5],
                timings={},
            )

    writer = threading.Thread(target=finish)
    with database.write() as session:
        erasure.erase_user(session, person.id, by="admin")
        writer.start()
        if database.dialect == "postgresql":  # SQLite lets nobody in meanwhile
            wait_until(lambda: waiting(database))
    writer.join()
    assert SECRET_WORD not in everything(database)
    with database.read() as session:
        assert chats.get_message(session, reply.id).state == "erased"
