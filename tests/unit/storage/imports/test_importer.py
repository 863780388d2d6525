"""Imports into the database, on both engines: all or nothing, nothing twice, nothing lost."""

import io
import json
from datetime import UTC, datetime
from pathlib import Path

import datasets
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from sqlmodel import select

from storage.chats import votes
from storage.db.database import Database
from storage.db.tables import Chat, Message, Vote, VoteEvent
from storage.errors import InvalidInput
from storage.examples.example import Examples
from storage.exports.exporter import Export, export_to
from storage.exports.plan import ExportPlan
from storage.imports.importer import BATCH, import_file
from storage.imports.reader import KEPT_REJECTIONS, ImportReport, Progress
from storage.imports.rows.options import ImportOptions
from storage.people import users
from tests.support.imported import ROW, ROWS, counts, exported, is_empty, lines, numbered
from tests.support.rated_store import SALT
from tests.support.rows import add_person_with_reply, add_reply
from tests.support.threads import at_once


def test_rows_come_back_in_the_order_of_the_file_and_only_once(database: Database) -> None:
    rows = [ROW, *numbered(BATCH + 3)]
    report = import_file(database, lines(*rows, ROW), name="rows.jsonl")
    assert (report.format, report.records) == ("kto", len(rows) + 1)
    assert counts(report) == (len(rows), 0, 1, 0)
    assert report.dropped == {"the same row again in this file": 1}
    found = exported(database)
    assert found[0] == ROW
    assert [row["prompt"][0]["content"] for row in found[1:]] == [row["prompt"] for row in rows[1:]]
    assert [row["label"] for row in found] == [row["label"] for row in rows]
    for skip_bad in (False, True):
        again = import_file(database, lines(*rows), skip_bad=skip_bad)
        assert counts(again) == (0, len(rows), 0, 0)
    assert exported(database) == found


def test_what_is_known_of_a_vote_is_kept(database: Database) -> None:
    more = {
        "tags": ["kind"],
        "comment": "=nice",
        "correction": "Hello there",
        "model": "llama3",
        "voted_at": "2024-05-06T07:08:09+02:00",
    }
    import_file(database, lines(ROW | more))
    with database.read() as session:
        chat = session.exec(select(Chat)).one()
        asked, replied = session.exec(select(Message).order_by(Message.id)).all()  # type: ignore[arg-type]
        vote = session.exec(select(Vote)).one()
        event = session.exec(select(VoteEvent)).one()
        owner = users.get_user(session, chat.owner_id)
    assert (chat.source, chat.title, chat.system_prompt, chat.consent) == (
        "import:kto",
        "Hi",
        "Be brief.",
        True,
    )
    assert (owner.name, owner.disabled) == ("import", True)
    assert (asked.parent_id, replied.parent_id) == (None, asked.id)
    assert (replied.role, replied.state, replied.sampling) == ("assistant", "complete", {"model": "llama3"})
    when = datetime(2024, 5, 6, 5, 8, 9, tzinfo=UTC)
    for kept in (vote, event):
        assert (kept.message_id, kept.user_id, kept.label, kept.revision) == (replied.id, owner.id, True, 1)
        assert (kept.tags, kept.comment, kept.correction) == (["kind"], "=nice", "Hello there")
        assert kept.created_at == when
    assert event.action == "cast"
    with database.write() as session:  # an imported vote can be changed like any other
        votes.cast_vote(session, user_id=owner.id, message_id=replied.id, label=False)
        assert votes.count_votes(session) == votes.VoteCounts(up=0, down=1)


def test_a_judge_and_a_token_limit_are_kept(database: Database) -> None:
    cut = {"judged_by": "big/model-2", "finish_reason": "length"}
    report = import_file(database, lines(ROW, ROW | cut, ROW | cut | {"judged_by": "another"}))
    assert (report.accepted, dict(report.left_out)) == (3, {})
    assert counts(import_file(database, lines(ROW | cut))) == (0, 1, 0, 0)
    with database.read() as session:
        found = list(Examples(session, votes.latest_event_id(session)).iterate())
    assert {(one.source, one.cut) for one in found} == {
        ("import:kto", False),
        ("judge:big/model-2", True),
        ("judge:another", True),
    }
    with pytest.raises(InvalidInput, match="judged_by must be a name"):
        import_file(database, lines(ROW | {"judged_by": "two words"}))


BAD_LINES = {
    b"{not json": "not JSON",
    b'{"prompt": "a", "completion": "b", "label": "yes"}': "must be true (up) or false (down), not 'yes'",
    b'{"prompt": "a", "completion": "b", "label": NaN}': "not null",
    b'{"prompt": "a", "chosen": "b", "rejected": "c"}': "looks like the format pairs",
    b'{"text": "a"}': "completion is missing",
    b"\xff\xfe": "UTF-8",
}


@pytest.mark.parametrize(("line", "reason"), BAD_LINES.items(), ids=BAD_LINES.values())
def test_a_bad_line_is_named_and_nothing_is_imported_unless_told_to_skip(
    database: Database, line: bytes, reason: str
) -> None:
    with pytest.raises(InvalidInput, match=r"rows.jsonl, line 2: ") as caught:
        import_file(database, lines(ROW, line), name="rows.jsonl")
    assert reason in caught.value.message
    assert "Nothing was imported" in caught.value.message
    assert (caught.value.code, caught.value.field) == ("bad_line", "line 2")
    assert is_empty(database)
    report = import_file(database, lines(ROW, line), skip_bad=True)
    assert counts(report) == (1, 0, 0, 1)
    assert report.rejections[0].position == "line 2"
    assert reason in report.rejections[0].reason


def test_all_rejections_are_counted_and_the_first_are_kept(database: Database) -> None:
    bad = [ROW | {"label": n} for n in range(KEPT_REJECTIONS + 20)]
    report = import_file(database, lines(*bad, *numbered(2)), skip_bad=True)
    assert counts(report) == (2, 0, 0, KEPT_REJECTIONS + 20)
    assert len(report.rejections) == KEPT_REJECTIONS
    assert (
        report.rejections[-1].reason
        == f"label must be true (up) or false (down), not {KEPT_REJECTIONS - 1}. "
        "Say what your words mean with up_words and down_words."
    )


def test_a_file_of_no_known_format_is_refused_with_the_formats_and_its_columns(database: Database) -> None:
    unknown = {"instruction": "a", "reply": "b"}
    for skip_bad in (False, True):
        with pytest.raises(InvalidInput, match="'instruction', 'reply'.*Known formats: openwebui") as caught:
            import_file(database, lines(*[unknown] * 30), skip_bad=skip_bad)
        assert (caught.value.code, caught.value.field) == ("unknown_format", "format")
    assert is_empty(database)
    report = import_file(database, lines(unknown, {}, ROW), skip_bad=True)
    assert counts(report) == (1, 0, 0, 2)
    assert [rejection.reason for rejection in report.rejections] == [
        "No known format has these columns: 'instruction', 'reply'. A reply needs a label (label, kto_tag) "
        "or a score (score, rating). Name yours with columns, such as columns=prompt=…,reply=…,label=….",
        "No known format has these columns: none.",
    ]


def test_a_format_that_is_named_is_not_guessed(database: Database) -> None:
    both = {"prompt": "Hi", "completion": "Hello", "label": True, "score": 1}
    options = ImportOptions(up_from=4, down_to=2)
    assert counts(import_file(database, lines(both), format="rated", options=options)) == (1, 0, 0, 0)
    assert exported(database)[0]["label"] is False
    for name, chosen in (("nothing", ImportOptions()), ("kto", options), ("rated", ImportOptions())):
        with pytest.raises(InvalidInput):
            import_file(database, lines(both), format=name, options=chosen)
    with pytest.raises(InvalidInput, match="no meaning for the format kto"):
        import_file(database, lines(both), options=ImportOptions(min_rating=4))


def test_what_options_leave_out_is_counted_by_reason(database: Database) -> None:
    pairs = [{"prompt": f"{n}", "chosen": "Good", "rejected": "Bad", "rating_chosen": n} for n in range(6)]
    options = ImportOptions(min_rating=4)
    report = import_file(database, lines(*pairs, pairs[5]), options=options)
    assert counts(report) == (4, 0, 10, 0)
    assert report.dropped == {"chosen is rated below 4": 8, "the same row again in this file": 2}
    del pairs[2]["rating_chosen"]
    with pytest.raises(InvalidInput, match="line 3: rating_chosen must be a number, not null"):
        import_file(database, lines(*pairs), options=options)


def test_every_kind_of_file_says_the_same(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "kinds"
    folder.mkdir()
    table = datasets.Dataset.from_list(ROWS)
    table.to_csv(folder / "rows.csv")
    table.to_json(folder / "rows.jsonl")
    table.to_json(folder / "rows.json", lines=False)
    table.to_parquet(folder / "rows.parquet")
    table.save_to_disk(folder / "saved")
    accepted = [counts(import_file(database, path))[:2] for path in folder.iterdir()]
    assert accepted.count((2, 0)) == 1
    assert accepted.count((0, 2)) == 4
    assert exported(database)[1]["completion"][0]["content"] == "=1+1"


def test_our_own_export_goes_into_an_empty_store_and_adds_nothing_to_its_own(
    database: Database, tmp_path: Path
) -> None:
    with database.write() as session:
        for label in (True, True, False):  # two votes on the same words by two people are two votes
            person, chat, reply = add_person_with_reply(session, system_prompt="Be kind.")
            votes.cast_vote(session, user_id=person.id, message_id=reply.id, label=label, tags=["x"])
        later = add_reply(session, chat, "And then?", "Then this.")
        votes.cast_vote(session, user_id=person.id, message_id=later.id, label=True, comment="ok")
    every = (*ROW, "message_id", "user_hash", "model_version", "voted_at", "tags", "comment")
    rows = exported(database, every)
    assert counts(import_file(database, lines(*rows))) == (0, 4, 0, 0)
    other = Database(f"sqlite:///{tmp_path / 'other.db'}")
    other.migrate()
    assert counts(import_file(other, lines(*rows))) == (4, 0, 0, 0)
    assert counts(import_file(other, lines(*rows))) == (0, 4, 0, 0)
    columns = (*ROW, "voted_at", "tags", "comment")
    assert exported(other, columns) == exported(database, columns)
    other.close()


def test_progress_is_told_and_can_end_the_import(database: Database) -> None:
    told: list[Progress] = []
    rows = lines(*numbered(2500))
    import_file(database, rows, progress=told.append)
    assert [(p.stage, p.records) for p in told] == [
        (stage, records) for stage in ("checking", "storing") for records in (1000, 2000, 2500)
    ]
    assert all(p.total_bytes == len(rows.getvalue()) for p in told)
    assert [p.done_bytes for p in told[:3]] == sorted(p.done_bytes for p in told[:3])
    assert told[-1].done_bytes == told[-1].total_bytes


def test_an_import_that_is_interrupted_leaves_nothing_or_is_resumed(database: Database) -> None:
    class Interrupted(Exception):
        pass

    def interrupt(progress: Progress) -> None:
        if progress.stage == "storing" and progress.records == 2000:
            raise Interrupted

    with pytest.raises(Interrupted):
        import_file(database, lines(*numbered(2500)), progress=interrupt)
    assert is_empty(database)
    with pytest.raises(Interrupted):
        import_file(database, lines(*numbered(2500)), skip_bad=True, progress=interrupt)
    kept = len(exported(database))
    assert 0 < kept < 2500
    assert counts(import_file(database, lines(*numbered(2500)))) == (2500 - kept, kept, 0, 0)


@pytest.mark.parametrize("skip_bad", [False, True])
def test_two_imports_of_one_file_at_once_add_it_once(database: Database, skip_bad: bool) -> None:

    def work() -> ImportReport:
        return import_file(database, lines(*numbered(BATCH * 2 + 1)), skip_bad=skip_bad)

    reports = at_once([work, work])
    assert sum(report.accepted for report in reports) == BATCH * 2 + 1
    assert len(exported(database)) == BATCH * 2 + 1


def test_postgresql_plans_with_what_was_imported(database: Database) -> None:
    """Its own count, a minute apart, may be of a moment when nothing was there."""
    if database.engine.dialect.name == "sqlite":
        pytest.skip("SQLite plans without statistics")
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.exec_driver_sql("ANALYZE")
        import_file(database, lines(*numbered(BATCH)))
        count = "SELECT reltuples FROM pg_class WHERE relname = %s"
        found = {
            name: connection.exec_driver_sql(count, (name,)).scalar_one()
            for name in ("chat", "message", "vote", "vote_event")
        }
    assert found == {"chat": BATCH, "message": 2 * BATCH, "vote": BATCH, "vote_event": BATCH}


def test_a_file_without_rows_is_no_error_and_leaves_no_trace(database: Database) -> None:
    for nothing in (b"", b"[]", b"\n"):
        assert import_file(database, io.BytesIO(nothing)) == ImportReport()
    with database.read() as session:
        assert users.find_user(session, "import") is None


TEXTS = some.text(some.characters(exclude_categories=["Cs"], exclude_characters="\x00"), max_size=40)


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(
    some.lists(some.tuples(some.lists(TEXTS, min_size=1, max_size=3), TEXTS.filter(bool), some.booleans()))
)
def test_any_text_comes_back_as_it_was(database: Database, chats: list[tuple[list[str], str, bool]]) -> None:
    rows = []
    for asked, reply, label in chats:
        prompt = [
            turn
            for text in asked
            for turn in ({"role": "user", "content": text}, {"role": "assistant", "content": text})
        ]
        rows.append(
            {"prompt": prompt[:-1], "completion": [{"role": "assistant", "content": reply}], "label": label}
        )
    before = len(exported(database))
    report = import_file(database, io.BytesIO(json.dumps(rows, ensure_ascii=False).encode()))
    assert report.accepted + report.duplicates + sum(report.dropped.values()) == len(rows)
    found = exported(database)
    assert len(found) == before + report.accepted
    assert all(row in found for row in rows)


def test_the_real_kto_sample_imports(database: Database, kto_sample: Path) -> None:
    report = import_file(database, kto_sample)
    assert report.accepted + report.dropped["the same row again in this file"] == 150
    assert (report.format, report.rejected) == ("kto", 0)
    rows = [json.loads(line) for line in kto_sample.read_text().splitlines()]
    assert all(row in rows for row in exported(database))


def test_the_real_pairs_import_as_a_thumb_up_and_one_down(database: Database, pairs_sample: Path) -> None:
    report = import_file(database, pairs_sample)
    repeated = report.dropped["the same row again in this file"]
    assert report.accepted + repeated == 300
    assert (report.format, report.records, len(report.dropped), report.rejected) == ("pairs", 150, 1, 0)
    with database.read() as session:
        up_and_down = votes.count_votes(session)
    assert up_and_down.up + up_and_down.down == report.accepted
    again = import_file(database, pairs_sample, skip_bad=True)
    assert counts(again) == (0, report.accepted, repeated, 0)


def test_every_exported_file_comes_back_the_same(database: Database, tmp_path: Path) -> None:
    with database.write() as session:
        for reply, label in (
            ("=1+1", True),
            ("@x\r\n'y", False),
            ("'tis", True),
            ("\u2028 \x01", True),
            ("null", False),
        ):
            _, chat, _ = add_person_with_reply(session)
            add_reply(session, chat, "[1]", reply, label=label, tags=["a"], comment="=c")
    columns = (*ROW, "voted_at", "tags", "comment")
    for format in ("jsonl", "csv", "parquet", "datasets"):
        for shape in ("kto", "sharegpt"):
            target = tmp_path / f"{shape}.{format}"
            plan = ExportPlan.model_validate({"format": format, "shape": shape})
            with database.read() as session:
                export_to(target, Export(session, plan, salt=SALT))
            other = Database(f"sqlite:///{target}.db")
            other.migrate()
            report = import_file(other, target)
            assert (counts(report), report.left_out) == ((5, 0, 0, 0), {})
            assert exported(other, columns) == exported(database, columns)
            other.close()
            assert counts(import_file(database, target)) == (0, 5, 0, 0)
