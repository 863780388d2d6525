"""The database tables. Columns only: the operations on them are in the other packages.

No `from __future__ import annotations` here: SQLModel reads the annotations at import.
"""

import re
from datetime import UTC, datetime
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlalchemy import JSON, Index, MetaData, Text, UniqueConstraint
from sqlalchemy.orm import declared_attr
from sqlmodel import Field, SQLModel

from storage.db.ids import new_id

# Named constraints, so that migrations can alter them on both engines.
NAMING = {
    "ix": "ix_%(column_0_N_label)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
    "pk": "pk_%(table_name)s",
}
OPTIONAL_JSON = JSON(none_as_null=True)


class UtcDateTime(sa.types.TypeDecorator[datetime]):
    """Aware UTC datetimes in Python, naive timestamps in the database; both engines sort them alike."""

    impl = sa.DateTime
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.astimezone(UTC).replace(tzinfo=None) if value is not None else None

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        return value.replace(tzinfo=UTC) if value is not None else None


def now() -> datetime:
    return datetime.now(UTC)


def where(condition: str) -> dict[str, Any]:
    """The arguments of an index that covers only the rows that meet `condition`."""
    return {"sqlite_where": sa.text(condition), "postgresql_where": sa.text(condition)}


def one_open(name: str, end: str, condition: str) -> Index:
    """A unique index: of the rows that meet `condition`, at most one has NULL in the column `end`."""
    return Index(name, sa.text(f"({end} IS NULL)"), unique=True, **where(condition))


class Table(SQLModel):
    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)

    @declared_attr.directive
    def __tablename__(cls) -> str:
        return re.sub("(?<=.)(?=[A-Z])", "_", cls.__name__).lower()  # ApiToken: api_token


class Identified(Table):
    id: str = Field(default_factory=new_id, primary_key=True)


class Dated(Identified):
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class User(Dated, table=True):
    __tablename__ = "user_account"  # "user" is a reserved word in PostgreSQL

    name: str | None = Field(default=None, unique=True)  # anonymous people and end users have none
    role: str = "user"  # admin, user
    password_hash: str | None = None
    disabled: bool = False
    # Their votes are kept, but not used.
    quarantined: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    erased_at: datetime | None = Field(default=None, sa_type=UtcDateTime)  # a tombstone: their data is gone
    # End users only: the account of their application, and a keyed hash of the name it gives them.
    # No foreign key: SQLite could only add one by rebuilding the table.
    app_id: str | None = Field(default=None, index=True)
    app_key: str | None = Field(default=None, unique=True, index=True)


class ApiToken(Dated, table=True):
    user_id: str = Field(foreign_key="user_account.id", index=True)
    name: str
    # api, session (a browser's cookie), login (a one-time link), password (a link to choose one)
    kind: str = "api"
    prefix: str
    sha256: str = Field(unique=True)
    # Names of storage.people.tokens.SCOPES, with spaces between; empty: all that the role may.
    scopes: str = Field(default="", sa_column_kwargs={"server_default": ""})
    expires_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    revoked_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class Identity(Dated, table=True):
    """How an identity provider knows the person of an account."""

    __table_args__ = (UniqueConstraint("issuer", "subject"),)

    issuer: str
    subject: str
    user_id: str = Field(foreign_key="user_account.id", index=True)


BROUGHT = ("import", "judge")  # the kinds of sources whose voters are nobody who chats here


class Chat(Dated, table=True):
    __table_args__ = (
        Index("ix_chat_owner", "owner_id", "id"),
        Index("ix_chat_pinned", "owner_id", "id", **where("pinned_at IS NOT NULL")),
    )

    owner_id: str = Field(foreign_key="user_account.id")
    title: str = ""
    titled_by: str | None = None  # person, model; None: the first words of the first message
    system_prompt: str = Field(default="", sa_type=Text)  # as it was when the first message came
    # Those of temperature, top_p and max_new_tokens that its replies have in place of the settings'.
    sampling: dict[str, Any] | None = Field(default=None, sa_type=OPTIONAL_JSON)
    consent: bool = True  # may its votes be trained on?
    source: str = "web"  # web, api, openai; import:FORMAT and judge:NAME for rows of a file
    import_key: str | None = Field(default=None, unique=True)  # hash of an imported row: none comes twice
    # The canary it was assigned to when it began. No foreign key: SQLite could only add one by rebuilding
    # the table.
    canary_id: str | None = Field(default=None, index=True)
    updated_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    deleted_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    pinned_at: datetime | None = Field(default=None, sa_type=UtcDateTime)  # to the top of its owner's list


FINISHED = ("complete", "stopped")  # the states of a reply that may be voted on


class Message(Dated, table=True):
    __table_args__ = (
        Index("ix_message_streaming", "lease_until", **where("state = 'streaming'")),
        Index("ix_message_version", "model_version_id", "created_at"),
        Index("ix_message_reasoning", "id", **where("reasoning IS NOT NULL")),
        Index("ix_message_tools", "role", **where("role IN ('tools', 'tool_call', 'tool')")),
    )

    chat_id: str = Field(foreign_key="chat.id", index=True)
    parent_id: str | None = Field(default=None, foreign_key="message.id", index=True)
    role: str  # user, assistant; in imported chats also tools, tool_call, tool (storage/chats/tools.py)
    content: str = Field(default="", sa_type=Text)
    reasoning: str | None = Field(default=None, sa_type=Text)  # of a reply, which `content` is without
    state: str = "complete"  # streaming, complete, stopped (before its end), failed, given (by a client)
    model_version_id: str | None = Field(default=None, foreign_key="model_version.id")
    sampling: dict[str, Any] | None = Field(default=None, sa_type=OPTIONAL_JSON)
    finish_reason: str | None = None  # stop, length, cancelled, interrupted (with its server), error
    server: str | None = None  # that generates the reply, or did
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)  # while it is streaming
    # Of a reply in a chat too long for the model: how many of the branch's first messages it did not read.
    messages_left_out: int = Field(default=0, sa_column_kwargs={"server_default": "0"})
    token_ids: list[int] | None = Field(default=None, sa_type=OPTIONAL_JSON)  # as generated, any EOS included
    # first_token_s, total_s, tokens
    timings: dict[str, Any] | None = Field(default=None, sa_type=OPTIONAL_JSON)


class Vote(Dated, table=True):
    """The current vote of one person on one reply; `label` is None once cleared."""

    __table_args__ = (
        UniqueConstraint("message_id", "user_id"),
        Index("ix_vote_said", "id", **where("comment IS NOT NULL OR correction IS NOT NULL")),
    )

    message_id: str = Field(foreign_key="message.id")
    user_id: str = Field(foreign_key="user_account.id", index=True)
    label: bool | None = None
    tags: list[str] = Field(default_factory=list, sa_type=JSON)
    comment: str | None = Field(default=None, sa_type=Text)
    correction: str | None = Field(default=None, sa_type=Text)
    share: float | None = (
        None  # of a vote on a whole chat, that falls to this reply; None: it is of the reply alone
    )
    # Not used: an admin has excluded this vote, or the person is quarantined.
    quarantined: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    excluded: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})  # by an admin
    revision: int = 1
    updated_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class VoteSum(Table, table=True):
    """Sums of the replies whose ids begin with `bucket`, and of their votes; see `storage.chats.sums`."""

    bucket: str = Field(primary_key=True)
    kind: str = Field(primary_key=True)
    name: str = Field(primary_key=True)
    replies: int
    up: float
    down: float


class SumCursor(Table, table=True):
    """One row: the last vote event whose bucket was counted again or noted."""

    id: int = Field(default=1, primary_key=True)
    event_id: int


class ChangedSum(Table, table=True):
    """A note that the sums of this bucket may have changed since they were kept."""

    id: int | None = Field(default=None, primary_key=True)
    bucket: str


class Review(Dated, table=True):
    """A second rating of a voted reply, by an admin. It measures agreement and is not trained on."""

    __table_args__ = (UniqueConstraint("vote_id", "by"),)

    vote_id: str = Field(foreign_key="vote.id")
    by: str = Field(foreign_key="user_account.id")
    label: bool | None = None
    note: str | None = Field(default=None, sa_type=Text)
    correction: str | None = Field(default=None, sa_type=Text)  # what the admin says it should have said
    updated_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class VoteEvent(Table, table=True):
    """Append-only: the vote as it stood after each cast, change and clear."""

    __table_args__ = (
        Index("ix_vote_event_message_user", "message_id", "user_id", "id"),
        Index("ix_vote_event_label", "label", "id"),  # finds the newest of a label, however rare it is
        Index("ix_vote_event_share", "id", **where("share < 1")),
        {"sqlite_autoincrement": True},  # ids are never reused: snapshots are named by them
    )

    id: int | None = Field(default=None, primary_key=True)
    message_id: str = Field(foreign_key="message.id")
    user_id: str = Field(foreign_key="user_account.id")
    action: str  # cast, change, clear, quarantine, release; erase once its content is erased
    label: bool | None = None
    tags: list[str] = Field(default_factory=list, sa_type=JSON)
    comment: str | None = Field(default=None, sa_type=Text)
    correction: str | None = Field(default=None, sa_type=Text)
    share: float | None = None
    quarantined: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})
    revision: int
    created_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class Signal(Dated, table=True):
    """Append-only: what a person did with a reply without voting on it."""

    __table_args__ = (UniqueConstraint("message_id", "user_id", "kind"),)

    message_id: str = Field(foreign_key="message.id")
    user_id: str = Field(foreign_key="user_account.id", index=True)
    kind: str  # regenerated, edited, copied
    after_event_id: int = Field(index=True)  # the newest vote event then; only later snapshots include this


WAITING = where("delivered_at IS NULL AND failed_at IS NULL")


class WebhookDelivery(Dated, table=True):
    """The webhook's outbox: an event to send, and the outcome of its attempts.

    Its id is the header webhook-id. The content of a vote is read from the vote event at each attempt, so
    there is no copy here to erase. What happened to a version concerns no person and stands in `data`.
    """

    __table_args__ = (Index("ix_webhook_delivery_waiting", "next_attempt_at", **WAITING),)

    event_id: int | None = Field(default=None, foreign_key="vote_event.id", unique=True)
    data: dict[str, Any] | None = Field(default=None, sa_type=OPTIONAL_JSON)
    event: str  # vote.cast, vote.changed, vote.cleared; version.rolled_back, version.promoted, canary.ended
    attempts: int = 0
    next_attempt_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)  # a server is sending it
    delivered_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    failed_at: datetime | None = Field(default=None, sa_type=UtcDateTime)  # given up
    last_error: str | None = Field(default=None, sa_type=Text)


class WebhookCursor(Table, table=True):
    """One row: the last vote event that the outbox has processed."""

    id: int = Field(default=1, primary_key=True)
    event_id: int


class ImportRequest(Dated, table=True):
    """The report of an import with an idempotency key, so that a repeated request gets it again."""

    __table_args__ = (UniqueConstraint("user_id", "key"),)

    user_id: str = Field(foreign_key="user_account.id")
    key: str
    sha256: str  # of the options and the file
    report: dict[str, Any] = Field(sa_type=JSON)


class ColumnMap(Dated, table=True):
    """What `columns` of an import says, kept under a name."""

    name: str = Field(unique=True)
    columns: str


class TrainingRun(Dated, table=True):
    """A training run. The table is also the queue; at most one run is active."""

    __table_args__ = (one_open("ix_training_run_active", "finished_at", "state IN ('requested', 'running')"),)

    state: str = "requested"  # requested, running, succeeded, skipped, failed, cancelled
    reason: str | None = Field(default=None, sa_type=Text)
    trigger: str  # admin, api, cli, schedule
    requested_by: str | None = Field(default=None, foreign_key="user_account.id")
    force: bool = False  # train even where the readiness check says no
    settings: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    # event_id, sha256, counts, held-out chats; the votes are rows of RunVote
    snapshot: dict[str, Any] | None = Field(default=None, sa_type=OPTIONAL_JSON)
    snapshot_event_id: int | None = None
    owner: str | None = None
    fence: int = 0  # grows with every claim; an older one may not publish
    attempts: int = 0
    lease_until: datetime | None = Field(default=None, sa_type=UtcDateTime)
    heartbeat_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    cancel_requested: bool = False
    progress: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    metrics: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    log_path: str | None = None
    started_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    finished_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ScheduleTick(Dated, table=True):
    """One firing of the schedule; the unique key makes it happen once, even with several schedulers."""

    __table_args__ = (UniqueConstraint("due_at"),)

    due_at: datetime = Field(sa_type=UtcDateTime)
    outcome: str  # for people
    run_id: str | None = Field(default=None, foreign_key="training_run.id")


class RunVote(Table, table=True):
    """Lineage: a vote (or a signal) that a run learned from."""

    message_id: str = Field(foreign_key="message.id", primary_key=True)
    user_id: str = Field(foreign_key="user_account.id", primary_key=True)
    run_id: str = Field(foreign_key="training_run.id", primary_key=True, index=True)


class SetAsideVote(Identified, table=True):
    """A vote (or a signal) that the guard kept the newest run from learning from."""

    __table_args__ = (UniqueConstraint("run_id", "message_id", "user_id"),)

    run_id: str = Field(foreign_key="training_run.id")
    message_id: str = Field(foreign_key="message.id", index=True)
    user_id: str = Field(foreign_key="user_account.id", index=True)
    reason: str
    detail: str = Field(default="", sa_type=Text)  # the phrase that is pushed


class GuardRelease(Dated, table=True):
    """An admin's decision that the guard lets a person's votes pass, or those on one reply, until it ends."""

    user_id: str = Field(foreign_key="user_account.id", index=True)
    message_id: str | None = Field(default=None, foreign_key="message.id", index=True)
    by: str
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)


class ModelVersion(Dated, table=True):
    number: int = Field(unique=True)  # v1 is the base
    parent_id: str | None = Field(default=None, foreign_key="model_version.id")
    run_id: str | None = Field(default=None, foreign_key="training_run.id", unique=True)
    kind: str  # base, adapter
    base_model: str
    path: str | None = None  # of the adapter folder, relative to the data directory
    sha256: str | None = None
    files: dict[str, str] = Field(default_factory=dict, sa_type=JSON)
    metrics: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
    state: str = "candidate"  # candidate (an admin decides), ready, rejected, retired
    reason: str | None = Field(default=None, sa_type=Text)
    # Votes it was trained on that are now erased, without consent, or of a deleted chat.
    erased_votes: int = Field(default=0, sa_column_kwargs={"server_default": "0"})

    @property
    def name(self) -> str:
        return f"v{self.number}"


class Deployment(Identified, table=True):
    """The period in which a version was deployed; the open row is the alias `deployed`."""

    __table_args__ = (one_open("ix_deployment_open", "ended_at", "ended_at IS NULL"),)

    version_id: str = Field(foreign_key="model_version.id")
    started_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    by: str  # a user's id, or the gate, or the monitor
    why: str = Field(sa_type=Text)
    rolled_back: bool = Field(default=False, sa_column_kwargs={"server_default": sa.false()})


class Canary(Identified, table=True):
    """A version tried on a share of the new chats; the open row is the current canary.

    Its id seeds the split.
    """

    __table_args__ = (one_open("ix_canary_open", "ended_at", "ended_at IS NULL"),)

    version_id: str = Field(foreign_key="model_version.id")
    compared_with_id: str = Field(foreign_key="model_version.id")  # the version deployed meanwhile
    share: float  # of new chats, above 0 and below 1
    started_at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    ended_at: datetime | None = Field(default=None, sa_type=UtcDateTime)
    by: str
    why: str = Field(sa_type=Text)
    ending: str | None = Field(default=None, sa_type=Text)  # why it ended


class ChangedSetting(Table, table=True):
    """A setting whose configured value an admin replaced while the program runs."""

    name: str = Field(primary_key=True)
    value: Any = Field(sa_type=JSON)
    by: str  # a user's id, or the command line
    at: datetime = Field(default_factory=now, sa_type=UtcDateTime)


class AuditEvent(Identified, table=True):
    """Append-only: who did what to what."""

    at: datetime = Field(default_factory=now, sa_type=UtcDateTime)
    actor: str  # a user's id, never a name, which could not be erased here; or a part of the program
    action: str
    target: str
    detail: dict[str, Any] = Field(default_factory=dict, sa_type=JSON)
