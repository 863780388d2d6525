"""Reads the votes and signals of a snapshot as KTO examples.

A snapshot is a vote event's id: for each (reply, person), the latest event up to that id counts. The prompt
is every message before the reply on its branch that the model read, including the system prompt; the
completion is the reply alone. Deleting a chat, withdrawing consent or erasing a vote removes rows from old
snapshots too; `Examples.left_out` counts them.

Examples are read in pages of event ids by primary key: a row costs the same in a small and a large store, and
only one page is in memory.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from storage.chats.conversation import Turn, without_reasoning
from storage.chats.signals import DESIRABLE, SIGNAL
from storage.db.ids import is_id
from storage.db.tables import VoteEvent
from storage.examples.filters import EVERYTHING, ExampleFilter, is_of_source
from storage.examples.queries import messages_before, standing_signals, standing_votes
from storage.registry.lineage import ERASED
from storage.settings.training import SignalKind

# Event ids in a page. Memory holds this many rows and the messages before their replies.
PAGE = 250
CORRECTION = "correction"
LONG_AGO = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Example:
    """One unpaired preference and its provenance."""

    prompt: list[dict[str, str]]
    completion: list[dict[str, str]]
    label: bool
    message_id: str  # or the position in a file
    chat_id: str
    source: str
    user_id: str = ""
    model_version: str | None = None
    voted_at: datetime = LONG_AGO
    tags: list[str] = field(default_factory=list)
    comment: str | None = None
    token_ids: list[int] | None = None  # the reply as generated, any EOS included; None for imported replies
    cut: bool = False  # the reply ended at a token limit, so nothing is to end it in training
    correction: str | None = None  # what the voter wrote the reply should have been
    share: float | None = None  # of a vote on the whole chat, that falls to this reply
    event_id: int = 0  # of the vote; examples come in this order
    origin: str = ""  # the source of the chat, also where `source` says correction or signal


@dataclass
class Examples:
    """The examples of a snapshot that pass a filter, in the order of their vote events.

    A filter by person or on_policy must come from storage.examples.filters.resolve. `corrections` adds a
    desirable example with the source "correction" after each vote that has a correction. `token_ids=False`
    skips reading them; exports do not need them.
    """

    session: Session
    snapshot_event_id: int
    filter: ExampleFilter = EVERYTHING
    _: KW_ONLY
    corrections: bool = False
    token_ids: bool = True
    page: int = PAGE
    left_out: Counter[str] = field(default_factory=Counter)  # matching votes without an example, by reason

    def __post_init__(self) -> None:
        assert not self.filter.on_policy
        assert self.filter.user is None or is_id(self.filter.user)
        self._query = standing_votes(self.filter, token_ids=self.token_ids)

    def iterate(self, after: int = 0) -> Iterator[Example]:
        """The examples with event ids above `after`; counts `left_out` from zero."""
        self.left_out.clear()
        events = sa.select(sa.func.min(VoteEvent.id)).where(
            col(VoteEvent.id) > sa.bindparam("after"), col(VoteEvent.id) <= self.snapshot_event_id
        )
        while (first := self.session.execute(events, {"after": after}).scalar_one()) is not None:
            after = min(first + self.page - 1, self.snapshot_event_id)
            yield from self.at(range(first, after + 1))

    def at(self, event_ids: Sequence[int]) -> Iterator[Example]:
        """The examples of these events (at most PAGE), in the order of their ids."""
        rows = self.session.execute(
            self._query, {"ids": list(event_ids), "snapshot": self.snapshot_event_id}
        ).all()
        wanted = [
            (row, example) for row in rows for example in self._of_vote(row) if self._allowed(row, example)
        ]
        before = messages_before(self.session, [row for row, _ in wanted])
        for row, example in wanted:
            found = replace(example, prompt=prompt_of(row, before))
            if has_length(found, self.filter):
                yield found

    def signals(self, kinds: Collection[SignalKind], *, newest_first: bool = False) -> Iterator[Example]:
        """The signals of these kinds, as examples with the source `signal:KIND`, oldest first.

        A person's vote on the reply overrides their signals. Of one person's signals on a reply the first
        counts, or none if they contradict each other. Deleted chats, chats without consent and quarantined
        people give no examples, even if the filter asks for them.
        """
        wanted = self.filter
        if not kinds or wanted.has_comment or wanted.consent == "withheld" or wanted.quarantined == "only":
            return
        query = standing_signals(kinds, self.snapshot_event_id, wanted, page=PAGE, newest_first=newest_first)
        last = (self.snapshot_event_id, "") if newest_first else (-1, "")
        while rows := self.session.execute(query, {"event": last[0], "id": last[1]}).all():
            before = messages_before(self.session, rows)
            for row in rows:
                example = example_of(
                    row,
                    prompt=prompt_of(row, before),
                    label=row.kind == DESIRABLE,
                    source=f"{SIGNAL}:{row.kind}",
                    event_id=row.after_event_id,
                )
                tokens = len(example.token_ids) if example.token_ids is not None else None
                if matches(example, wanted, tokens) and has_length(example, wanted):
                    if reason := _taken_back(row):
                        self.left_out[reason] += 1
                    else:
                        yield example
            last = (rows[-1].after_event_id, rows[-1].id)

    def _of_vote(self, row: Any) -> Iterator[Example]:
        """The examples of one vote, without prompts, that pass the filters not needing one."""
        if row.action == ERASED:
            self.left_out["erased vote"] += 1
            return
        vote = example_of(
            row,
            prompt=[],
            label=row.label,
            tags=row.tags,
            comment=row.comment,
            source=row.source,
            correction=row.correction,
            share=row.share,
            event_id=row.id,
        )
        if matches(vote, self.filter, row.token_count):
            yield vote
        if self.corrections and row.correction:
            corrected = replace(
                vote,
                completion=[without_reasoning(Turn("assistant", row.correction)).message],
                label=True,
                model_version=None,
                source=CORRECTION,
                token_ids=None,
                cut=False,
                correction=None,
            )
            if matches(corrected, self.filter, None):
                yield corrected

    def _allowed(self, row: Any, example: Example) -> bool:
        if row.deleted_at is not None:
            self.left_out["deleted chat"] += 1
        elif self.filter.consent == "given" and not row.consent:
            self.left_out["no consent"] += 1
        elif not example.completion[0]["content"]:
            self.left_out["empty reply"] += 1
        else:
            return self.filter.consent != "withheld" or not row.consent
        return False


def _taken_back(row: Any) -> str:
    """Why a signal gives no example; '' if it gives one."""
    if row.deleted_at is not None:
        return "deleted chat"
    if not row.consent:
        return "no consent"
    return "quarantined person" if row.set_aside else ""


def example_of(row: Any, **given: Any) -> Example:
    """The example of a vote or signal: what both take from the row of their query, and the given fields."""
    return Example(
        completion=[Turn("assistant", row.content, row.reasoning or "").message],
        message_id=row.message_id,
        chat_id=row.chat_id,
        user_id=row.user_id,
        model_version=f"v{row.version}" if row.version is not None else None,
        voted_at=row.created_at,
        token_ids=row.token_ids,
        cut=row.finish_reason == "length",
        origin=row.source,
        **given,
    )


def prompt_of(row: Any, before: dict[str, Any]) -> list[dict[str, str]]:
    """What the model read: the messages before a reply, without the first `messages_left_out`.

    `row` has the reply's `parent_id`, `messages_left_out` and `system_prompt`; `before` the messages by id.
    """
    prompt: list[dict[str, str]] = []
    step = row.parent_id
    while step is not None:
        message = before[step]
        prompt.append(Turn(message.role, message.content, message.reasoning or "").message)
        step = message.parent_id
    prompt = prompt[: len(prompt) - row.messages_left_out]
    if row.system_prompt:
        prompt.append({"role": "system", "content": row.system_prompt})
    return prompt[::-1]


def matches(example: Example, wanted: ExampleFilter, token_count: int | None) -> bool:
    """Whether an example passes a filter's label, version, source, tag and token limits.

    If `token_count` is None, every four characters count as a token.
    """
    if token_count is None:
        token_count = -(-len(example.completion[0]["content"]) // 4)
    return (
        wanted.label in (None, example.label)
        and wanted.model_version in (None, example.model_version)
        and (wanted.source is None or is_of_source(example.source, wanted.source))
        and (wanted.tag is None or wanted.tag in example.tags)
        and _within(token_count, wanted.min_tokens, wanted.max_tokens)
    )


def has_length(example: Example, wanted: ExampleFilter) -> bool:
    """Whether an example passes a filter's limits on messages, the reply included."""
    return _within(len(example.prompt) + 1, wanted.min_messages, wanted.max_messages)


def _within(count: int, least: int | None, most: int | None) -> bool:
    return (least is None or count >= least) and (most is None or count <= most)
