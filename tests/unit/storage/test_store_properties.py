"""Random lives of a store against a model: votes, counts, the event log, and snapshots that never change.

Hypothesis draws the sequences, the same ones every time. Snapshots are taken in between and exported again at
the end: the bytes are the same, but for the rows that an erasure, a deletion or a withdrawn consent took.
"""

import json

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlmodel import col, select

from storage.chats import chats, votes
from storage.db.database import Database
from storage.db.tables import Chat, Message, Table, Vote, VoteEvent
from storage.errors import InvalidInput, NotAllowed
from storage.exports.exporter import Export
from storage.exports.plan import ExportPlan
from storage.people import users
from storage.privacy import erasure, quarantine
from storage.privacy.consent import delete_chat
from storage.registry import model_versions
from tests.support.rated_store import NASTY, SALT
from tests.support.store_model import NOTHING, ModelChat, ModelEvent, ModelMessage, Said, StoreModel

HUGE = "𝄞 =1\n" * 200_000  # a million characters
STORABLE = st.characters(exclude_categories=["Cs"], exclude_characters="\x00")
SPECIAL = [
    "",
    "\u202eabc\u2066",
    "\ufeff",
    "\ufffe\uffff",
    "a\u0301\u0302",
    "\u0085\x1c\x1d\x1e",
    "👩‍👩‍👧‍👦🏴󠁧󠁢󠁳󠁣󠁴󠁿",
    *NASTY,
]
TEXTS = st.text(STORABLE, max_size=20) | st.sampled_from(SPECIAL)
BAD_TEXTS = st.sampled_from(["\x00", "a\x00b", "\ud800", "x\udfff"])
NOTES = st.none() | TEXTS
PICKS = st.integers(0, 2**16)
OUR_COLUMNS = ("prompt", "completion", "label", "message_id", "tags", "comment", "correction", "source")


class StoreLife(RuleBasedStateMachine):
    """One store from its beginning; `database` is empty at first."""

    database: Database  # of the subclass that a test makes

    def __init__(self) -> None:
        super().__init__()
        with self.database.write() as session:
            for table in reversed(Table.metadata.sorted_tables):
                session.execute(sa.delete(table))
            self.version = model_versions.ensure_base(session, "tiny").id
        self.model = StoreModel()
        self.snapshots: list[tuple[int, int, ExportPlan, list[bytes], bytes]] = []
        self.huge_left = 1

    # People and chats

    @rule(new=st.booleans(), pick=PICKS, system=TEXTS)
    def begin_chat(self, new: bool, pick: int, system: str) -> None:
        living = [person for person in self.model.people if person not in self.model.erased_people]
        with self.database.write() as session:
            person = users.create_anonymous(session).id if new or not living else living[pick % len(living)]
            chat = chats.create_chat(session, person, system_prompt=system)
        if person not in self.model.people:
            self.model.people.append(person)
        self.model.chats.append(ModelChat(chat.id, person, system, chat.updated_at))

    @precondition(lambda self: self.model.open_chats())
    @rule(pick=PICKS, question=TEXTS, answer=TEXTS, at_leaf=st.booleans())
    def ask(self, pick: int, question: str, answer: str, at_leaf: bool) -> None:
        open_chats = self.model.open_chats()
        chat = open_chats[pick % len(open_chats)]
        replies = [m for m in self.model.replies() if m.chat is chat]
        parent = self.model.leaf(chat) if at_leaf or not replies else replies[pick % len(replies)]
        with self.database.write() as session:
            asked = chats.add_user_message(
                session, chat.id, question, parent_id=None if at_leaf or parent is None else parent.id
            )
            chat.updated_at = chats.get_chat(session, chat.id).updated_at
        said = ModelMessage(asked.id, chat, parent, "user", question)
        self.model.messages.append(said)
        self.answer(said, answer)

    @precondition(lambda self: self.huge_left and self.model.open_chats())
    @rule(pick=PICKS, label=st.booleans())
    def ask_and_get_something_huge(self, pick: int, label: bool) -> None:
        self.huge_left -= 1
        self.ask(pick, HUGE, HUGE, True)
        self.cast_on(self.model.messages[-1], (label, (), "huge", None))

    @precondition(lambda self: self.model.replies())
    @rule(pick=PICKS, answer=TEXTS)
    def regenerate(self, pick: int, answer: str) -> None:
        parent = self.reply(pick).parent
        assert parent is not None
        self.answer(parent, answer)

    @precondition(lambda self: self.model.open_chats())
    @rule(pick=PICKS, text=BAD_TEXTS)
    def say_what_cannot_be_stored(self, pick: int, text: str) -> None:
        chat = self.model.open_chats()[pick % len(self.model.open_chats())]
        with pytest.raises(InvalidInput), self.database.write() as session:
            chats.add_user_message(session, chat.id, text)
        with pytest.raises(InvalidInput), self.database.write() as session:
            chats.create_chat(session, chat.owner, system_prompt=text)

    # Votes

    @precondition(lambda self: self.model.replies())
    @rule(pick=PICKS, label=st.booleans(), tags=st.lists(TEXTS, max_size=2), comment=NOTES, correction=NOTES)
    def cast(
        self, pick: int, label: bool, tags: list[str], comment: str | None, correction: str | None
    ) -> None:
        self.cast_on(self.reply(pick), (label, tuple(tags), comment, correction))

    @precondition(lambda self: self.model.replies())
    @rule(pick=PICKS)
    def clear(self, pick: int) -> None:
        reply = self.reply(pick)
        with self.database.write() as session:
            votes.clear_vote(session, user_id=reply.chat.owner, message_id=reply.id)
        if self.model.latest(reply) is not None:
            self.model.vote(reply, NOTHING)

    @precondition(lambda self: self.model.replies() and len(self.model.people) > 1)
    @rule(pick=PICKS, text=BAD_TEXTS)
    def vote_as_one_may_not(self, pick: int, text: str) -> None:
        reply = self.reply(pick)
        stranger = next(person for person in self.model.people if person != reply.chat.owner)
        with pytest.raises(NotAllowed), self.database.write() as session:
            votes.cast_vote(session, user_id=stranger, message_id=reply.id, label=True)
        for said in ({"tags": [text]}, {"comment": text}, {"correction": text}):
            with pytest.raises(InvalidInput), self.database.write() as session:
                votes.cast_vote(
                    session,
                    user_id=reply.chat.owner,
                    message_id=reply.id,
                    label=True,
                    **said,  # type: ignore[arg-type]
                )

    # What takes rows away

    @precondition(lambda self: self.model.open_chats())
    @rule(pick=PICKS, consent=st.booleans())
    def give_or_withdraw_consent(self, pick: int, consent: bool) -> None:
        chat = self.model.open_chats()[pick % len(self.model.open_chats())]
        with self.database.write() as session:
            stored = chats.get_chat(session, chat.id)
            stored.consent = chat.consent = consent
            session.add(stored)

    @precondition(lambda self: len(self.model.open_chats()) > 1)
    @rule(pick=PICKS)
    def delete_chat(self, pick: int) -> None:
        chat = self.model.open_chats()[pick % len(self.model.open_chats())]
        with self.database.write() as session:
            delete_chat(session, chat.id)
        chat.deleted = True

    @precondition(lambda self: len(self.model.people) - len(self.model.erased_people) > 1)
    @rule(pick=PICKS)
    def erase_person(self, pick: int) -> None:
        living = [person for person in self.model.people if person not in self.model.erased_people]
        person = living[pick % len(living)]
        with self.database.write() as session:
            erasure.erase_user(session, person, by="test")
        self.model.erased_people.add(person)
        self.model.erase([chat for chat in self.model.chats if chat.owner == person])

    @precondition(lambda self: len(self.model.open_chats()) > 2)
    @rule(pick=PICKS)
    def erase_what_is_old(self, pick: int) -> None:
        moment = self.model.open_chats()[pick % len(self.model.open_chats())].updated_at
        with self.database.write() as session:
            erasure.erase_before(session, moment, by="test")
        self.model.erase([chat for chat in self.model.chats if chat.updated_at < moment])  # deleted ones, too

    @precondition(lambda self: len(self.model.people) > len(self.model.erased_people))
    @rule(pick=PICKS, quarantined=st.booleans())
    def set_quarantine(self, pick: int, quarantined: bool) -> None:
        living = [person for person in self.model.people if person not in self.model.erased_people]
        person = living[pick % len(living)]
        with self.database.write() as session:
            quarantine.set_quarantine(session, person, quarantined, by="test")
        self.model.set_quarantine(person, quarantined)

    # Snapshots

    @rule(
        format=st.sampled_from(["jsonl", "jsonl", "csv", "parquet"]),
        corrections=st.booleans(),
    )
    def take_snapshot(self, format: str, corrections: bool) -> None:
        with self.database.read() as session:
            event_id = votes.latest_event_id(session)
        plan = ExportPlan.model_validate({"format": format, "corrections": corrections})
        lines, chunks = self.check_snapshot(event_id, len(self.model.events), plan)
        self.snapshots.append((event_id, len(self.model.events), plan, lines, chunks))

    def teardown(self) -> None:
        for event_id, length, plan, before, chunks in self.snapshots:
            lines, chunks_now = self.check_snapshot(event_id, length, plan)
            now = {_key(line) for line in lines}
            # Rows may go, and with consent given again some that were away may come; none is another.
            assert [line for line in before if _key(line) in now] == [
                line for line in lines if _key(line) in {_key(one) for one in before}
            ]
            if lines == before:
                assert chunks_now == chunks

    # What must always hold

    @invariant()
    def the_store_holds_what_the_model_holds(self) -> None:
        with self.database.read() as session:
            events = session.exec(select(VoteEvent).order_by(col(VoteEvent.id))).all()
            current = {vote.message_id: vote for vote in session.exec(select(Vote))}
            counted = votes.count_votes(session)
            texts = dict(session.exec(select(Message.id, Message.content)).all())
            hidden = {id for id, at in session.exec(select(Chat.id, Chat.deleted_at)) if at is not None}
        assert (counted.up, counted.down) == self.model.counts()
        assert texts == {message.id: message.content for message in self.model.messages}
        assert hidden == {chat.id for chat in self.model.chats if chat.deleted}
        assert len(events) == len(self.model.events)
        for event, expected in zip(events, self.model.events, strict=True):
            assert (event.message_id, event.user_id) == (expected.message.id, expected.user)
            assert (_said(event), event.revision) == (expected.said, expected.revision)
            assert expected.id in (0, event.id)  # an event keeps its id
            expected.id = event.id or 0
            assert (event.action == erasure.ERASED) == expected.erased
            assert event.quarantined == expected.quarantined
        living = [
            event for event in self._last_events() if event.said != NOTHING or event.message.id in current
        ]
        assert {id: (_said(vote), vote.revision) for id, vote in current.items()} == {
            event.message.id: (event.said, event.revision) for event in living
        }

    def _last_events(self) -> list[ModelEvent]:
        last = {event.message.id: event for event in self.model.events}
        return [event for event in last.values() if not event.erased]

    def check_snapshot(self, event_id: int, length: int, plan: ExportPlan) -> tuple[list[bytes], bytes]:
        """Its JSON lines and its bytes in the plan's format, which must say what the model says."""
        with self.database.read() as session:
            export = Export(
                session, plan.model_copy(update={"format": "jsonl"}), salt=SALT, snapshot_event_id=event_id
            )
            lines = _lines(export)
            manifest = export.manifest()
            chunks = b"".join(Export(session, plan, salt=SALT, snapshot_event_id=event_id).chunks())
        rows, left_out = self.model.rows(length, corrections=plan.corrections)
        found = [json.loads(line) for line in lines]
        for row in found:
            row["tags"] = json.loads(row["tags"])
        assert [{name: row[name] for name in OUR_COLUMNS} for row in found] == rows
        assert manifest["left_out"] == left_out
        assert manifest["rows"] == len(rows)
        return lines, chunks

    def answer(self, parent: ModelMessage, text: str) -> None:
        with self.database.write() as session:
            reply = chats.begin_reply(
                session, parent.chat.id, parent.id, model_version_id=self.version, sampling={}
            )
            chats.finish_reply(
                session,
                reply.id,
                content=text,
                state="complete",
                finish_reason="stop",
                token_ids=[5, 2],
                timings={},
            )
        self.model.messages.append(ModelMessage(reply.id, parent.chat, parent, "assistant", text))

    def cast_on(self, reply: ModelMessage, said: Said) -> None:
        label, tags, comment, correction = said
        assert label is not None
        with self.database.write() as session:
            votes.cast_vote(
                session,
                user_id=reply.chat.owner,
                message_id=reply.id,
                label=label,
                tags=tags,
                comment=comment,
                correction=correction,
            )
        self.model.vote(reply, said)

    def reply(self, pick: int) -> ModelMessage:
        replies = self.model.replies()
        return replies[pick % len(replies)]


def _lines(export: Export) -> list[bytes]:
    # Not splitlines: U+2028 and its like are no line ends of JSON lines.
    return b"".join(export.chunks()).split(b"\n")[:-1]


def _key(line: bytes) -> tuple[str, str]:
    row = json.loads(line)
    return row["message_id"], row["source"]


def _said(vote: Vote | VoteEvent) -> Said:
    return vote.label, tuple(vote.tags), vote.comment, vote.correction


def test_a_store_lives_as_its_model_does(database: Database) -> None:
    life = type("Life", (StoreLife,), {"database": database})
    run_state_machine_as_test(
        life,
        settings=settings(
            max_examples=30 if database.dialect == "sqlite" else 8,
            stateful_step_count=40,
            derandomize=True,  # the same lives every time
            phases=[
                Phase.generate
            ],  # making a failing life shorter would take minutes, and it is printed anyway
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
