"""What an import format is, and what the formats of columns share: the prompt and the vote."""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeVar

from storage.chats.conversation import Turn
from storage.db.ids import is_id
from storage.errors import InvalidInput
from storage.imports.files.records import kind_of
from storage.imports.rows.cells import read_cut, read_judge, read_note, read_number, read_tags, read_time
from storage.imports.rows.fields import CHATS, NOTHING, PROMPTS, SYSTEMS, Fields, is_full
from storage.imports.rows.options import NO_OPTIONS, ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked, joined, with_system, with_tools

Columns = Mapping[str, Any]
Rows = Iterator[ImportedRow | Dropped]
Said = TypeVar("Said")

# Column names in data sets of Argilla, Hugging Face and others; {} is chosen or rejected.
MODELS = ("{}_model_version", "{}_model", "{}-model", "model_version", "model")
# Who voted, the surest name first: annotator, annotator_id, AnnotatorId, annotator_name.
PEOPLE = (
    "rater annotator worker crowdworker user voter evaluator labeler labeller reviewer judge person assessor "
    "grader coder expert participant respondent username"
)
RATERS = tuple(name + ending for name in PEOPLE.split() for ending in ("", "id", "name", "email"))
# The time of a vote by other names than ours, the surest first; believed where a record names its rater.
VOTE_TIMES = (
    *("rated_at", "annotated_at", "labeled_at", "labelled_at", "submitted_at"),
    *("updated_at", "created_at", "timestamp"),
)
NEVER_CAST = ("discarded", "draft", "pending", "cancelled", "canceled", "deleted", "skipped")
WITHDRAWN = ("was_cancelled", "cancelled", "canceled", "discarded", "deleted", "is_deleted")
TOOLS = ("tools", "functions")
JUDGED = "judge:"  # the source of what a judge model rated
ENDS = ("finish_reason", "stop_reason", "done_reason")  # of OpenAI, Anthropic, Ollama
RATED_MESSAGES = ("message_id", "reply_id", "response_id")


@dataclass(frozen=True)
class Sample:
    """A record for the docs and the tests, and the options that it needs."""

    title: str
    record: Columns
    options: ImportOptions = NO_OPTIONS


@dataclass(frozen=True)
class Format:
    """One entry of the table: how a record is known, and what becomes of it."""

    name: str
    about: str  # for people: the columns that identify it
    becomes: str  # for people: what a record gives
    fits: Callable[[Columns, ImportOptions], bool]
    rows: Callable[[Fields], Rows]
    samples: tuple[Sample, ...]
    options: tuple[str, ...] = ()  # the options it supports besides those of all formats
    ignores: frozenset[str] = frozenset()  # columns of it that say nothing about the rows
    scored: bool = False  # every row has a score, so that the thresholds are needed
    rated_apart: bool = False  # several people's votes on a reply are records of their own
    group: str | None = None  # neighbouring records with the same value here are one


def filled(record: Columns, *names: str) -> bool:
    """Whether the record has all of these columns, and something in one of them."""
    return all(name in record for name in names) and any(record[name] is not None for name in names)


def first_name(record: Columns, names: Sequence[str]) -> str | None:
    return next((name for name in names if record.get(name) is not None), None)


def prompt_turns(fields: Fields, chats: Sequence[str] = CHATS) -> tuple[list[Turn], Any] | None:
    """The conversation before the reply and the cell it came from; None if no column holds one."""
    if fields.has("instruction") and fields.has("input") and "prompt" not in fields.options.meant.values():
        fields.one_of(("instruction", "prompt", "question", "query"), "prompt")
        turns, more = fields.turns("instruction", "user"), fields.turns("input", "user")
        if [turn.role for turn in turns + more] != ["user", "user"]:
            raise InvalidInput("instruction and input must be texts.", field="input")
        value: Any = f"{turns[0].content}\n{more[0].content}"
        turns = [Turn("user", value)]
    else:
        name = fields.one_of(PROMPTS, "prompt") or fields.one_of(chats, "prompt")
        if name is None:
            return None
        turns, value = fields.turns(name, "user"), fields.peek(name)
    return _history(fields) + turns, value


def _history(fields: Fields) -> list[Turn]:
    """LLaMA-Factory's earlier turns: a list of [user, assistant]."""
    rounds = fields.peek("history")
    if not fields.has("history") or not isinstance(rounds, list):
        return []
    if not all(
        isinstance(said, list) and [kind_of(text) for text in said] == ["text"] * 2 for said in rounds
    ):
        return []  # of another form: then it counts as unread, and is refused
    return [
        Turn(role, text)
        for said in fields["history"]
        for role, text in zip(("user", "assistant"), said, strict=True)
    ]


def conversation(fields: Fields, name: str, beginning: tuple[list[Turn], Any] | None) -> list[Turn]:
    """The prompt, with the reply of the column `name`; raises InvalidInput."""
    if fields.get(name) is None or fields.get(name) == []:
        raise InvalidInput(f"{name} is missing.", field=name)
    ending = fields.turns(name, "assistant")
    fields.whole = fields.whole or len(ending) > 1
    if beginning is None and len(ending) == 1:
        raise fields.missing("prompt")
    turns, prompt = beginning or ([], None)
    return joined(turns, ending, prompt, name)


def whole_conversation(fields: Fields, name: str) -> list[Turn]:
    """The conversation of the column `name`, which ends with the reply."""
    if fields.get(name) is None:
        raise InvalidInput(f"{name} is missing.", field=name)
    turns = fields.turns(name, "assistant")
    fields.whole = len(turns) > 1
    # A column with the prompt beside it says the same, or is refused.
    repeated = prompt_turns(fields, ()) if fields.whole else None
    return joined(repeated[0], turns, repeated[1], name) if repeated is not None else turns


def rated_row(fields: Fields, turns: list[Turn], name: str, label: bool, side: str = "") -> ImportedRow:
    """The row, with the provenance columns of a Thumbloop export; `side` is their prefix in a pair."""
    ours = is_ours(fields, side)
    judge = read_judge(fields.get("judged_by"))
    if ours and (source := str(fields.get(f"{side}source"))).startswith(JUDGED):
        judge = read_judge(source.removeprefix(JUDGED))
    system = fields.one_of(SYSTEMS, "system")
    tools = fields.one_of(TOOLS, "tools")
    turns = with_tools(turns, fields[tools], tools) if tools else turns
    turns = _with_reasoning(fields, turns, f"{side}reasoning_content")
    of_judge = ("", f"{JUDGED}{judge}") if judge else None
    ballot = None if ours else of_judge or _ballot(fields)
    return ImportedRow(
        checked(with_system(turns, fields[system] if system else None), name),
        label,
        tags=_noted(fields, f"{side}tags", read_tags),
        comment=_noted(fields, f"{side}comment", lambda value: read_note(value, "comment")),
        correction=_noted(fields, f"{side}correction", lambda value: read_note(value, "correction")),
        model=read_note(_first(fields, _models(side)), "model"),
        cut=read_cut(_first(fields, (f"{side}finish_reason", *ENDS))),
        judge=judge,
        voted_at=_vote_time(fields, side, ballot),
        share=_share(fields, side) if ours else None,
        origin=(str(fields[f"{side}message_id"]), str(fields[f"{side}user_hash"])) if ours else None,
        ballot=ballot,
    )


def _noted(fields: Fields, name: str, read: Callable[[Any], Said]) -> Said:
    """What people said besides the vote; a value of another kind is named as left out."""
    value = fields.get(name)
    found = read(value)
    # NaN is how Parquet files that pandas wrote say that there is nothing.
    if not found and is_full(value) and value == value and value not in NOTHING:
        fields.note(name)
    return found


def _with_reasoning(fields: Fields, turns: list[Turn], name: str) -> list[Turn]:
    """The conversation, with what a column of its own holds as the reasoning of its reply."""
    reasoning = fields.peek(name)
    if not (isinstance(reasoning, str) and reasoning.strip() and turns) or turns[-1].reasoning:
        return turns
    fields.get(name)
    return [*turns[:-1], turns[-1]._replace(reasoning=reasoning.strip())]


def is_ours(fields: Columns, side: str = "") -> bool:
    """Whether the record has the columns that identify a vote in a Thumbloop export."""
    message_id, user_hash = fields.get(f"{side}message_id"), fields.get(f"{side}user_hash")
    return isinstance(message_id, str) and isinstance(user_hash, str) and is_id(message_id)


def thresholds(options: ImportOptions) -> tuple[float, float]:
    """From where on a score is good, and up to where it is bad; raises InvalidInput."""
    up_from, down_to = options.up_from, options.down_to
    if up_from is None or down_to is None:
        raise InvalidInput(
            "Scores need up_from and down_to: from where on a reply is good, and up to where it is bad.",
            field="up_from" if up_from is None else "down_to",
        )
    if down_to >= up_from:
        raise InvalidInput(f"down_to ({down_to:g}) must be below up_from ({up_from:g}).", field="down_to")
    return up_from, down_to


def by_score(score: float, column: str, options: ImportOptions) -> bool | Dropped:
    """The thumb that a score is, or why it is none."""
    up_from, down_to = thresholds(options)
    return (
        score >= up_from
        if not down_to < score < up_from
        else Dropped(f"{column} is between {down_to:g} and {up_from:g}")
    )


def never_cast(fields: Fields) -> Dropped | None:
    """Why the record is no vote: a tool for annotation says that its person did not submit it."""
    status = fields.peek("status")
    if isinstance(status, str) and status.casefold() in NEVER_CAST:
        return Dropped(f"a vote that was not submitted ({status.casefold()})")
    true = ("true", "1", "1.0")
    withdrawn = next((name for name in WITHDRAWN if str(fields.peek(name)).casefold() in true), None)
    return Dropped(f"a vote that was withdrawn ({withdrawn})") if withdrawn is not None else None


def _ballot(fields: Fields) -> tuple[str, str] | None:
    people = [name for name in raters(tuple(fields)) if is_person(fields.peek(name))]
    if not people:
        return None
    message = first_name(fields, RATED_MESSAGES)
    person, *_ = (str(fields[name]) for name in people)
    return str(fields[message]) if message else "", person


@lru_cache(maxsize=256)
def raters(names: tuple[Any, ...]) -> list[str]:
    """The columns that may name who voted, the surest first."""
    bare = {name: re.sub(r"[\s_-]", "", name.casefold()) for name in names if isinstance(name, str)}
    return sorted(
        (name for name, text in bare.items() if text in RATERS), key=lambda n: RATERS.index(bare[n])
    )


def is_person(value: Any) -> bool:
    return isinstance(value, str | int) and not isinstance(value, bool) and is_full(value)


def _share(fields: Fields, side: str) -> float | None:
    """The share of a vote on a whole chat; None for a vote on the reply alone, which is 1."""
    name = f"{side}share"
    if not fields.has(name):
        return None
    share = read_number(fields.get(name), name)
    if not 0 < share <= 1:
        raise InvalidInput(f"{name} must be above 0 and at most 1, not {share:g}.", field=name)
    return share if share < 1 else None


def _vote_time(fields: Fields, side: str, ballot: tuple[str, str] | None) -> datetime | None:
    ours = f"{side}voted_at"
    if fields.has(ours) or ballot is None:
        return read_time(fields.get(ours), ours)
    for name in VOTE_TIMES:
        if fields.has(name):
            try:
                moment = read_time(fields.peek(name), name)
            except InvalidInput:  # of another kind; then the order of the file counts
                fields.note(name)
                continue
            fields.get(name)
            return moment
    return None


@lru_cache
def _models(side: str) -> tuple[str, ...]:
    return tuple(column.format(side[:-1]) for column in MODELS)


def _first(fields: Fields, names: Sequence[str]) -> Any:
    name = first_name(fields, names)
    return fields[name] if name is not None else None
