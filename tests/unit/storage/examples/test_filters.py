"""The filters of examples: what may be written, and what each of them lets through, on both engines."""

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest
from sqlmodel import Session, select

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.ids import new_id
from storage.db.tables import Message, ModelVersion, VoteEvent
from storage.errors import InvalidInput, NotFound
from storage.examples import filters
from storage.examples.example import Examples
from storage.examples.filters import ExampleFilter, read_filter
from storage.files.installation_key import pseudonym
from storage.people import users
from storage.privacy import erasure
from storage.privacy.consent import delete_chat
from storage.registry import model_versions
from tests.support.rows import add_reply

SALT = b"s" * 32


@pytest.mark.parametrize(
    ("values", "field", "said"),
    [
        ({"lable": "up"}, "lable", "no filter 'lable'; the filters are label, "),
        ({"label": "sideways"}, "label", "'sideways'"),
        ({"from_date": "2026-02-30"}, "from_date", "not a date"),
        ({"to_date": "yesterday"}, "to_date", "'yesterday'"),
        ({"to_date": ""}, "to_date", "not a date"),
        ({"to_date": 20260101}, "to_date", "not a date"),
        ({"from_date": "0001-01-01T00:00:00+14:00"}, "from_date", "not a date"),
        ({"from_date": "2026-02-01", "to_date": "2026-01-31"}, None, "from_date is beyond to_date"),
        ({"min_messages": "3", "max_messages": "2"}, None, "min_messages is beyond max_messages"),
        ({"min_tokens": "-1"}, "min_tokens", "'-1'"),
        ({"max_tokens": "many"}, "max_tokens", "'many'"),
        ({"model_version": "latest"}, "model_version", "such as v2"),
        ({"on_policy": "true", "model_version": "v1"}, None, "cannot both"),
        ({"user": "somebody"}, "user", "neither"),
        ({"consent": "maybe"}, "consent", "'maybe'"),
    ],
)
def test_what_is_no_filter_is_refused_by_name(
    values: dict[str, object], field: str | None, said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        read_filter(values)
    assert caught.value.field == field
    assert said in caught.value.message


def test_a_day_without_a_time_is_included_whole() -> None:
    filter = read_filter({"from_date": "2026-01-31", "to_date": "2026-01-31"})
    assert filter.from_date == datetime(2026, 1, 31, tzinfo=UTC)
    assert filter.to_date == datetime(2026, 2, 1, tzinfo=UTC) - timedelta(microseconds=1)
    assert read_filter({"to_date": date(9999, 12, 31)}).to_date == datetime.max.replace(tzinfo=UTC)
    at_six = read_filter({"to_date": "2026-01-31T18:00:00+01:00"})
    assert at_six.to_date == datetime(2026, 1, 31, 17, tzinfo=UTC)
    assert read_filter({"to_date": "2026-01-31T18:00"}).to_date == datetime(2026, 1, 31, 18, tzinfo=UTC)


@pytest.mark.parametrize(("text", "label"), [("up", True), ("down", False), ("true", True), ("0", False)])
def test_a_label_has_the_usual_names(text: str, label: bool) -> None:
    assert read_filter({"label": text}).label is label


@pytest.fixture
def store(database: Database) -> Database:
    """Four votes: two by Ann on a web chat, one by Bob, one by Bob on an imported reply."""
    with database.write() as session:
        base = model_versions.ensure_base(session, "tiny")
        session.add(
            ModelVersion(number=2, parent_id=base.id, kind="adapter", base_model="tiny", state="ready")
        )
        ann, bob = users.create_user(session, "ann"), users.create_user(session, "bob")
        chat = chats.create_chat(session, ann.id, system_prompt="Be kind.")
        first, second = add_reply(session, chat, "1", "one"), add_reply(session, chat, "2", "two")
        _cast(session, first, ann.id, True, "2026-01-30T12:00", tags=["clear"], comment=" ")
        _cast(session, second, ann.id, False, "2026-01-31T23:59:59.999999", tags=["clear", "wrong"])
        third = add_reply(session, chats.create_chat(session, bob.id, source="api"), "3", "three")
        third.model_version_id = model_versions.get_version(session, "v2").id
        third.token_ids = list(range(40))
        _cast(session, third, bob.id, True, "2026-02-01T00:00", comment="Nice.")
        imported = add_reply(
            session, chats.create_chat(session, bob.id, source="import:pairs"), "4", "x" * 41
        )
        imported.model_version_id = imported.token_ids = None
        _cast(session, imported, bob.id, False, "2026-02-02T00:00")
        model_versions.deploy_version(session, "v2", by="test", why="test")
    return database


def _cast(session: Session, reply: Message, user_id: str, label: bool, at: str, **said: object) -> None:
    session.add(reply)
    votes.cast_vote(session, user_id=user_id, message_id=reply.id, label=label, **said)  # type: ignore[arg-type]
    event = session.exec(select(VoteEvent).where(VoteEvent.message_id == reply.id)).one()
    event.created_at = datetime.fromisoformat(at).replace(tzinfo=UTC)
    session.add(event)


def found(database: Database, **values: object) -> list[str]:
    with database.read() as session:
        filter = filters.resolve(session, read_filter(values), salt=SALT)
        wanted = Examples(session, votes.latest_event_id(session), filter, token_ids=False)
        return [example.prompt[-1]["content"] for example in wanted.iterate()]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "1234"),
        ({"source": "import:pairs"}, "4"),
        ({"source": "imp"}, ""),
        ({"label": "up"}, "13"),
        ({"label": "down"}, "24"),
        ({"from_date": "2026-01-31"}, "234"),
        ({"to_date": "2026-01-31"}, "12"),
        ({"from_date": "2026-01-31", "to_date": "2026-01-31"}, "2"),
        ({"to_date": "2026-01-31T12:00"}, "1"),
        ({"model_version": "v1"}, "12"),
        ({"model_version": "v2"}, "3"),
        ({"on_policy": "true"}, "3"),
        ({"tag": "clear"}, "12"),
        ({"tag": "wrong"}, "2"),
        ({"tag": "clea"}, ""),
        ({"has_comment": "true"}, "3"),
        ({"has_comment": "false"}, "124"),
        ({"min_messages": 3}, "12"),
        ({"max_messages": 2}, "34"),
        ({"min_messages": 4}, "2"),
        ({"min_tokens": 11}, "34"),
        ({"min_tokens": 12}, "3"),
        ({"max_tokens": 2}, "12"),
        ({"source": "import"}, "4"),
        ({"source": "web", "label": "up"}, "1"),
    ],
)
def test_each_filter_lets_through_what_it_says(
    store: Database, values: dict[str, object], expected: str
) -> None:
    assert "".join(found(store, **values)) == expected


def test_a_person_is_named_by_id_or_by_hash(store: Database) -> None:
    with store.read() as session:
        ann = users.find_user(session, "ann")
    assert ann is not None
    assert found(store, user=ann.id) == found(store, user=pseudonym(SALT, ann.id)) == ["1", "2"]
    assert read_filter({"user": ann.id}).describe(SALT)["user"] == pseudonym(SALT, ann.id)


@pytest.mark.parametrize(
    "values", [{"model_version": "v9"}, {"user": "0" * 16}, {"user": new_id()}], ids=["version", "hash", "id"]
)
def test_what_does_not_exist_is_said(store: Database, values: dict[str, object]) -> None:
    with pytest.raises(NotFound, match=str(next(iter(values.values())))):
        found(store, **values)


def test_a_filter_with_on_policy_says_tomorrow_what_it_says_today(store: Database) -> None:
    with store.read() as session:
        resolved = filters.resolve(session, ExampleFilter(on_policy=True), salt=SALT)
    assert resolved.describe(SALT) == {"consent": "given", "model_version": "v2"}


def test_an_erased_vote_is_left_out_and_counted(store: Database) -> None:
    with store.write() as session:
        ann = users.find_user(session, "ann")
        assert ann is not None
        erasure.erase_user(session, ann.id, by="test")
    with store.read() as session:
        wanted = Examples(session, 4)
        assert [e.prompt[-1]["content"] for e in wanted.iterate()] == ["3", "4"]
        assert wanted.left_out == {"erased vote": 2}


def test_pages_begin_after_the_last_event_of_the_page_before(store: Database) -> None:
    with store.read() as session:
        first = next(Examples(session, 4, page=2).iterate())
        rest = list(Examples(session, 4, page=2).iterate(first.event_id))
        earlier = list(Examples(session, 2, page=2).iterate())
    assert [first.event_id, *(e.event_id for e in rest)] == [1, 2, 3, 4]
    assert [e.event_id for e in earlier] == [1, 2]


def _withdraw(session: Session, chat_id: str) -> None:
    chat = chats.get_chat(session, chat_id)
    chat.consent = False
    session.add(chat)


@pytest.mark.parametrize(
    ("change", "reason"),
    [(delete_chat, "deleted chat"), (_withdraw, "no consent")],
    ids=["deleted", "withdrawn"],
)
def test_what_may_not_be_used_is_left_out_and_counted(
    store: Database, change: Callable[[Session, str], None], reason: str
) -> None:
    with store.write() as session:
        (chat_id,) = {e.chat_id for e in Examples(session, 4).iterate() if e.source == "api"}
        change(session, chat_id)
    with store.read() as session:
        wanted = Examples(session, votes.latest_event_id(session))
        assert [e.prompt[-1]["content"] for e in wanted.iterate()] == ["1", "2", "4"]
        assert wanted.left_out == {reason: 1}
    without_consent = ["3"] if reason == "no consent" else []
    assert found(store, consent="withheld") == without_consent
    assert found(store, consent="any") == ["1", "2", *without_consent, "4"]


def test_a_correction_becomes_a_desirable_example_when_wanted(store: Database) -> None:
    with store.write() as session:
        second = next(e for e in Examples(session, 4).iterate() if e.prompt[-1]["content"] == "2")
        votes.cast_vote(
            session, user_id=second.user_id, message_id=second.message_id, label=False, correction="Two!"
        )
    with store.read() as session:
        latest = votes.latest_event_id(session)
        *_, down, corrected = Examples(session, latest, corrections=True).iterate()
        plain = list(Examples(session, latest).iterate())
        sourced = list(
            Examples(session, latest, read_filter({"source": "correction"}), corrections=True).iterate()
        )
    assert (down.label, down.correction, corrected.label, corrected.source) == (
        False,
        "Two!",
        True,
        "correction",
    )
    assert corrected.prompt == down.prompt
    assert corrected.completion == [{"role": "assistant", "content": "Two!"}]
    assert (corrected.model_version, corrected.token_ids) == (None, None)
    assert len(plain) == 4
    assert sourced == [corrected]


def test_pages_are_read_through_indexes_alone(database: Database) -> None:
    if database.dialect != "sqlite":
        pytest.skip("PostgreSQL's plan depends on the size; see tests/benchmarks/export.py")
    seen: list[tuple[str, object]] = []
    with database.read() as session:
        connection = session.connection()
        from sqlalchemy import event

        event.listen(
            connection,
            "before_cursor_execute",
            lambda _c, _cursor, statement, parameters, _context, _many: seen.append((statement, parameters)),
        )
        list(Examples(session, 10).at([1, 2, 3]))
        (statement, parameters), *_ = seen
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()  # type: ignore[arg-type]
    assert plan
    assert not [step for step in plan if "SCAN" in step[3]]
