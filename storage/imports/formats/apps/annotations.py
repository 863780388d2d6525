"""Votes of annotation tools: Argilla's records, flat and nested, and Label Studio's tasks.

Only submitted answers count. Each person's answer is a vote, unless `raters` asks for their mean or majority.
"""

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from storage.errors import InvalidInput
from storage.imports.rows.cells import read_label, read_list, read_number, read_time
from storage.imports.rows.fields import REPLIES, Fields
from storage.imports.rows.format import (
    Columns,
    Format,
    Rows,
    Sample,
    by_score,
    conversation,
    prompt_turns,
    rated_row,
)
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow

RESPONSES = ".responses"
# Beside the responses of a question: who gave them, whether they were submitted, and what a model suggested.
BESIDE = (".responses.users", ".responses.status", ".suggestion", ".suggestion.score", ".suggestion.agent")
DONE = ("submitted", "completed", None)
SIDES = re.compile(r"(.*?)(a|A|0|1|left)")  # of the names of two texts, such as answer_a and answer_b
OTHER_SIDE = {"a": "b", "A": "B", "0": "1", "1": "2", "left": "right"}
Vote = tuple[str, Any, Any]  # the person, the value, the time


def argilla_rows(fields: Fields) -> Rows:
    if fields.peek("status") in ("discarded", "draft"):
        fields.get("status")
        yield Dropped("a record that is discarded or a draft")
        return
    nested = fields.peek("responses")
    if isinstance(fields.peek("fields"), Mapping):
        questions = nested if isinstance(nested, Mapping) else {}
        inner = fields.inner(fields.options.renamed(fields["fields"]))
        fields.get("responses")
    elif any(name.endswith(RESPONSES) for name in fields if isinstance(name, str)):
        names = [name.removesuffix(RESPONSES) for name in fields if str(name).endswith(RESPONSES)]
        questions = {name: _flat(fields, name) for name in names}
        inner = fields
    else:  # Argilla 1 on the hub
        questions = {name: _hub(fields[name]) for name in fields if _is_hub(fields.peek(name))}
        inner = fields
    answered = {name: given for name, given in questions.items() if given}
    name = _question(answered, fields)
    if name is None:
        yield Dropped("a record without a submitted answer")
        return
    for other in answered.keys() - {name}:
        fields.note(f"{other}{RESPONSES}")
    votes = [
        (str(one.get("user_id")), one.get("value"), None)
        for one in read_list(answered[name], name)
        if _is_done(one)
    ]
    yield from _voted(inner, votes, name, str(fields.get("id") or fields.get("_server_id") or ""))
    if inner is not fields:
        fields.take(inner)


def _question(answered: Mapping[str, Any], fields: Fields) -> str | None:
    """The question whose answers are the votes: the only one, or the one that score_column names."""
    if (wanted := fields.options.score_column) is not None:
        return wanted if wanted in answered else None
    if len(answered) > 1:
        first, second, *_ = sorted(answered)
        raise InvalidInput(
            f"{first} and {second} may both be the vote; say which it is: score_column={first}.",
            field="score_column",
        )
    return next(iter(answered), None)


def _flat(fields: Fields, name: str) -> list[dict[str, Any]]:
    values, users, status = (
        fields.get(f"{name}{suffix}") for suffix in (RESPONSES, ".responses.users", ".responses.status")
    )
    for suffix in BESIDE:
        fields.get(f"{name}{suffix}")
    values = values if isinstance(values, list) else []
    return [
        {"value": value, "user_id": _at(users, at) or f"#{at}", "status": _at(status, at)}
        for at, value in enumerate(values)
    ]


def _hub(question: Any) -> list[dict[str, Any]]:
    values = read_list(question.get("value"), "value")
    return [
        {
            "value": value,
            "user_id": _at(question.get("user_id"), at) or f"#{at}",
            "status": _at(question.get("status"), at),
        }
        for at, value in enumerate(values)
    ]


def _is_hub(value: Any) -> bool:
    return isinstance(value, Mapping) and value.keys() >= {"user_id", "value", "status"}


def _at(values: Any, at: int) -> Any:
    return values[at] if isinstance(values, list) and at < len(values) else None


def _is_done(answer: Any) -> bool:
    return isinstance(answer, Mapping) and answer.get("status") in DONE and answer.get("value") is not None


def label_studio_rows(fields: Fields) -> Rows:
    data = fields.get("data")
    if not isinstance(data, Mapping):
        raise InvalidInput("data must be an object.", field="data")
    inner = fields.inner(fields.options.renamed(data))
    answered: dict[str, list[Vote]] = {}
    chosen: list[Vote] = []
    for number, annotation in enumerate(read_list(fields.get("annotations"), "annotations")):
        if not isinstance(annotation, Mapping) or annotation.get("was_cancelled"):
            continue
        person = annotation.get("completed_by")
        person = str(person.get("id") if isinstance(person, Mapping) else person or f"#{number}")
        at = annotation.get("updated_at") or annotation.get("created_at")
        for result in read_list(annotation.get("result"), "result"):
            value = result.get("value") if isinstance(result, Mapping) else None
            if not isinstance(value, Mapping):
                continue
            if "selected" in value:
                chosen.append((person, value["selected"], at))
            elif "rating" in value or "choices" in value:
                given = value.get("rating", value.get("choices"))
                given = given[0] if isinstance(given, list) and len(given) == 1 else given
                answered.setdefault(str(result.get("from_name")), []).append((person, given, at))
    task = str(fields.get("id") or "")
    if chosen:
        yield from _pairwise(inner, chosen, task)
    elif (question := _question(answered, fields)) is not None:
        for other in answered.keys() - {question}:
            fields.note(f"annotations[].{other}")
        yield from _voted(inner, answered[question], question, task)
    else:
        yield Dropped("a task without a submitted annotation")
        return
    fields.take(inner)


def _pairwise(data: Fields, chosen: list[Vote], task: str) -> Rows:
    names = _two_texts(data)
    beginning = prompt_turns(data)
    sides = [conversation(data, name, beginning) for name in names]
    for person, selected, at in chosen:
        if selected not in ("left", "right"):
            yield Dropped("a comparison without a preferred side", 2)
            continue
        for side, name, turns in zip(("left", "right"), names, sides, strict=True):
            row = rated_row(data, turns, name, selected == side)
            yield _voted_by(row, f"{task}/{side}", person, at)


def _two_texts(data: Fields) -> tuple[str, str]:
    """The columns of the left and the right text: named by the options, or alike but for their ends."""
    if {"left", "right"} <= set(data.options.meant.values()):
        return "left", "right"
    ends = [found for name in data if (found := SIDES.fullmatch(name))]
    pairs = [(end[0], end[1] + OTHER_SIDE[end[2]]) for end in ends if end[1] + OTHER_SIDE[end[2]] in data]
    if len(pairs) != 1:
        raise InvalidInput(
            f"data does not say which texts were compared; its columns are {', '.join(map(repr, data))}. "
            "Name them: columns=prompt=…,left=…,right=….",
            field="columns",
        )
    return pairs[0]


def _voted(data: Fields, votes: list[Vote], question: str, record: str) -> Rows:
    """A row for each vote on the reply of this record, or for all of them together."""
    options = data.options
    name = data.one_of(REPLIES, "reply") or REPLIES[0]
    turns = conversation(data, name, prompt_turns(data))
    labels: list[tuple[str, bool | Dropped, Any]] = []
    if options.raters == "mean":
        mean = sum(read_number(value, question) for _, value, _ in votes) / len(votes) if votes else 0
        labels = [("", by_score(mean, question, options), votes[-1][2])] if votes else []
    else:
        labels = [(person, _thumb(value, question, options), at) for person, value, at in votes]
    if options.raters == "majority" and labels:
        balance = sum(1 if label is True else -1 for _, label, _ in labels if isinstance(label, bool))
        labels = [("", balance > 0 if balance else Dropped("as many people for as against"), labels[-1][2])]
    if not labels:
        yield Dropped("a record without a submitted answer")
    for person, label, at in labels:
        row = rated_row(data, turns, name, label is True)
        yield _voted_by(row, record, person, at) if isinstance(label, bool) else label


def _thumb(value: Any, question: str, options: ImportOptions) -> bool | Dropped:
    """A number by the thresholds, a word by the table or the options."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    is_digits = isinstance(value, str) and value.strip().lstrip("-").replace(".", "", 1).isdigit()
    if (is_number or is_digits) and options.up_words is None:
        return by_score(read_number(value, question), question, options)
    return read_label(value, question, options)


def _voted_by(row: ImportedRow, message: str, person: str, at: Any) -> ImportedRow:
    return replace(row, ballot=(message, person) if person else None, voted_at=read_time(at, "updated_at"))


def _is_argilla(record: Columns, _options: ImportOptions) -> bool:
    return (
        any(isinstance(name, str) and name.endswith(RESPONSES) for name in record)
        or (isinstance(record.get("fields"), Mapping) and isinstance(record.get("responses"), Mapping))
        or any(_is_hub(value) for value in record.values())
    )


def _is_label_studio(record: Columns, _options: ImportOptions) -> bool:
    return isinstance(record.get("data"), Mapping) and isinstance(record.get("annotations"), list)


def _annotation(person: int, value: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"completed_by": person, "was_cancelled": False, "result": [{"type": "x", "value": value}], **more}


BOUNDS = ImportOptions(up_from=4, down_to=2)
OPTIONS = ("score_column", "up_from", "down_to", "up_words", "down_words", "raters")
BRIDGE = {"prompt": "Name a bridge.", "response": "Tower Bridge."}
ARGILLA = Format(
    "argilla",
    "Argilla's records: fields and responses, or columns such as quality.responses",
    "a row for each person's submitted answer: a number by `up_from` and `down_to`, a word as a label. "
    "`score_column` names the question where there are several; `score`, which a search adds, is no rating",
    _is_argilla,
    argilla_rows,
    (
        Sample(
            "flat",
            {
                "id": "r1",
                "status": "completed",
                **BRIDGE,
                "quality.responses": [5, 4, 1],
                "quality.responses.users": ["u1", "u2", "u3"],
                "quality.responses.status": ["submitted", "submitted", "discarded"],
                "quality.suggestion": 2,
            },
            BOUNDS,
        ),
        Sample(
            "nested",
            {
                "id": "r1",
                "fields": BRIDGE,
                "metadata": {},
                "responses": {
                    "quality": [{"value": "good", "user_id": "u1"}, {"value": "bad", "user_id": "u2"}]
                },
                "suggestions": {},
            },
        ),
        Sample(
            "Argilla 1, their mean",
            {
                **BRIDGE,
                "quality": {"user_id": ["u1", "u2"], "value": [5, 4], "status": ["submitted", "submitted"]},
            },
            ImportOptions(up_from=4, down_to=2, raters="mean"),
        ),
    ),
    OPTIONS,
    frozenset({"status", "suggestions", "vectors", "external_id"}),
)
LABEL_STUDIO = Format(
    "label-studio",
    "Label Studio's tasks: data, annotations",
    "a row for each annotation that was not cancelled: a rating by `up_from` and `down_to`, a choice as "
    "a label, "
    "a comparison as a thumb up and a thumb down; `columns` names the texts in `data`",
    _is_label_studio,
    label_studio_rows,
    (
        Sample(
            "a comparison",
            {
                "id": 1,
                "data": {"prompt": "Name a bridge.", "answer_a": "Tower Bridge.", "answer_b": "No."},
                "annotations": [
                    _annotation(7, {"selected": "left"}, created_at="2026-01-02T03:04:05Z"),
                    _annotation(8, {"selected": "right"}, was_cancelled=True),
                ],
            },
        ),
        Sample("ratings", {"id": 2, "data": BRIDGE, "annotations": [_annotation(7, {"rating": 4})]}, BOUNDS),
        Sample(
            "choices",
            {"id": 3, "data": BRIDGE, "annotations": [_annotation(7, {"choices": ["Good"]})], "meta": {}},
        ),
    ),
    OPTIONS,
    frozenset(
        {
            "predictions",
            "drafts",
            "inner_id",
            "total_annotations",
            "cancelled_annotations",
            "total_predictions",
        }
        | {
            "comment_count",
            "unresolved_comment_count",
            "comment_authors",
            "project",
            "updated_by",
            "file_upload",
        }
    ),
)
