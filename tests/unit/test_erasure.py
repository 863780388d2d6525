"""Erasing a person: nothing of theirs is left anywhere, and models that learned from it are marked."""

import threading
from datetime import timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa

from storage import audit, chats, erasure, exports, model_versions, training_runs, users, votes
from storage.database import Database
from storage.errors import Conflict
from storage.secret import load_secret
from storage.tables import Table, now
from tests.live_server import wait_until
from tests.unit.people import add_person_with_reply, add_reply

SECRET_WORD = "xylophone"


def everything(database: Database) -> str:
    """Every value of every table, as one text."""
    with database.read() as session:
        return "\n".join(
            str(row) for table in Table.metadata.sorted_tables for row in session.execute(sa.select(table))
        )


def export(database: Database, snapshot: int, tmp_path: Path) -> list[str]:
    with database.read() as session:
        return list(exports.export_jsonl(session, snapshot, load_secret(tmp_path)))


def test_nothing_of_an_erased_person_is_left_and_their_models_are_marked(
    database: Database, tmp_path: Path
) -> None:
    with database.write() as session:
        kept, _, kept_reply = add_person_with_reply(session)
        votes.cast_vote(session, user_id=kept.id, message_id=kept_reply.id, label=True)
        gone, chat, reply = add_person_with_reply(session, system_prompt=f"Speak of the {SECRET_WORD}.")
        add_reply(session, chat, f"A {SECRET_WORD}?", f"The {SECRET_WORD}!")
        votes.cast_vote(
            session,
            user_id=gone.id,
            message_id=reply.id,
            label=False,
            tags=[SECRET_WORD],
            comment=SECRET_WORD,
            correction=SECRET_WORD,
        )
        snapshot = votes.latest_event_id(session)
        run = training_runs.request_run(session, trigger="api")
        held = training_runs.claim_run(session, run.id, owner="t", lease_seconds=60, max_attempts=3)
        assert held is not None
        used = [[reply.id, gone.id], [kept_reply.id, kept.id]]
        training_runs.update_run(session, run.id, held.fence, snapshot={"votes": used})
        model_versions.publish_version(
            session,
            run_id=run.id,
            fence=held.fence,
            base_model="tiny",
            path="p",
            sha256="s",
            files={},
            metrics={},
        )
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
        assert audit.list_events(session)[0].action == "erase_user"
        with pytest.raises(Conflict, match="already"):
            erasure.erase_user(session, gone.id, by="admin")
        admin = users.create_user(session, "root", role="admin")
        with pytest.raises(Conflict, match="is an admin"):
            erasure.erase_user(session, admin.id, by="admin")


def test_retention_erases_what_nobody_has_written_in_since(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        person, chat, reply = add_person_with_reply(session)
        votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=True)
        chat.updated_at = now() - timedelta(days=100)
        session.add(chat)
        _, fresh, _ = add_person_with_reply(session)
    with database.write() as session:
        report = erasure.erase_before(session, now() - timedelta(days=90), by="retention")
        assert (report.chats, report.votes) == (1, 1)
        assert votes.count_votes(session) == votes.VoteCounts(0, 0)
        assert fresh.deleted_at is None


def test_exports_in_the_data_directory_are_copies_and_go_too(tmp_path: Path) -> None:
    (tmp_path / "exports").mkdir()
    (tmp_path / "exports" / "rows.jsonl").write_text("{}")
    assert erasure.remove_exports(tmp_path) is True
    assert not (tmp_path / "exports").exists()
    assert erasure.remove_exports(tmp_path) is False


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


def waiting(database: Database) -> int:
    """How many connections to this PostgreSQL database wait for a lock."""
    query = (
        "SELECT count(*) FROM pg_stat_activity "
        "WHERE wait_event_type = 'Lock' AND datname = current_database()"
    )
    with database.read() as session:
        return int(session.execute(sa.text(query)).scalar_one())
