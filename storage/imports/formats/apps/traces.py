"""Traces with people's scores: Langfuse and MLflow. A score alone has no text and is refused."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from storage.chats.conversation import Turn
from storage.errors import InvalidInput
from storage.imports.rows.cells import read_label, read_list, read_note, read_number, read_time
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample, by_score
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked, read_turns

# Where the text stands in what a traced function took and gave.
ASKED = ("messages", "prompt", "question", "query", "input", "text")
GIVEN = ("completion", "response", "answer", "output", "content", "text")
OPTIONS = ("score_column", "up_from", "down_to", "up_words", "down_words")


def langfuse_rows(fields: Fields) -> Rows:
    if "scores" not in fields:
        place = fields.get("traceId") or fields.get("observationId") or fields.get("sessionId")
        raise InvalidInput(
            f"A Langfuse score has no text; it lies in the trace {place!s:.80}. Export the traces with "
            "their scores.",
            field="traceId",
        )
    turns = _turns(fields)
    scores = [one for one in read_list(fields.get("scores"), "scores") if isinstance(one, Mapping)]
    names = {str(one.get("name")) for one in scores if one.get("source") != "EVAL"}
    wanted = _wanted(names, fields.options)
    found = False
    for one in scores:
        if one.get("source") == "EVAL":
            yield Dropped("a score by a judge (EVAL), not by a person")
        elif one.get("name") == wanted:
            found = True
            yield from _vote(
                fields,
                turns,
                one.get("stringValue") if one.get("dataType") == "CATEGORICAL" else one.get("value"),
                one.get("dataType") == "BOOLEAN",
                one,
                read_time(one.get("updatedAt") or one.get("timestamp"), "timestamp"),
                str(one.get("authorUserId") or ""),
                one.get("comment"),
            )
    if not found:
        yield Dropped("a trace without a score by a person")


def mlflow_rows(fields: Fields) -> Rows:
    info = fields.get("info")
    listed = fields.get("assessments") or (info.get("assessments") if isinstance(info, Mapping) else None)
    data = fields.get("data")
    trace = fields.inner(data) if isinstance(data, Mapping) else fields
    if not trace.has("request") or not trace.has("response"):
        raise InvalidInput(
            "The trace has no request and response with the whole text; export it with its data, not its "
            "previews.",
            field="data",
        )
    turns = _turns(fields.inner({"input": trace["request"], "output": trace["response"]}))
    given = [
        one
        for one in read_list(listed, "assessments")
        if isinstance(one, Mapping) and isinstance(one.get("feedback"), Mapping)
    ]
    people = [
        one for one in given if _source(one).get("source_type") == "HUMAN" and one.get("valid") is not False
    ]
    names = {str(one.get("assessment_name") or one.get("name")) for one in people}
    wanted = _wanted(names, fields.options)
    judged = len(given) - len(people)
    if judged:
        yield Dropped("a score by a judge, not by a person", judged)
    for one in people:
        if str(one.get("assessment_name") or one.get("name")) == wanted:
            value, person = one["feedback"].get("value"), str(_source(one).get("source_id") or "")
            at = read_time(one.get("create_time"), "create_time")
            yield from _vote(fields, turns, value, False, one, at, person, one.get("rationale"))
    if not people:
        yield Dropped("a trace without a score by a person")


def _source(assessment: Mapping[str, Any]) -> Mapping[str, Any]:
    source = assessment.get("source")
    return source if isinstance(source, Mapping) else {}


def _wanted(names: set[str], options: ImportOptions) -> str | None:
    if options.score_column is None and len(names) > 1:
        first, second, *_ = sorted(names)
        raise InvalidInput(
            f"{first} and {second} may both be the vote; say which it is: score_column={first}.",
            field="score_column",
        )
    return options.score_column or next(iter(names), None)


def _vote(
    fields: Fields,
    turns: list[Turn],
    value: Any,
    is_flag: bool,
    score: Mapping[str, Any],
    at: Any,
    person: str,
    note: Any,
) -> Rows:
    name = str(score.get("name") or score.get("assessment_name"))
    label: bool | Dropped
    if is_flag and value in (0, 1):
        label = value == 1
    elif isinstance(value, int | float) and not isinstance(value, bool) and fields.options.up_words is None:
        label = by_score(read_number(value, name), name, fields.options)
    else:
        label = read_label(value, name, fields.options)
    if isinstance(label, Dropped):
        yield label
        return
    info = fields.get("info")
    within = info.get("trace_id") if isinstance(info, Mapping) else None
    trace = str(fields.get("id") or fields.get("trace_id") or within or "")
    row = ImportedRow(checked(turns, "output"), label, comment=read_note(note, "comment"), voted_at=at)
    yield replace(row, ballot=(trace, person)) if trace and person else row


def _turns(fields: Fields) -> list[Turn]:
    """What the traced function took and gave: text, messages, or an object with them under a usual name."""
    asked = read_turns(_within(fields.get("input"), ASKED, "input"), "input", "user")
    return asked + read_turns(_within(fields.get("output"), GIVEN, "output"), "output", "assistant")


def _within(value: Any, names: tuple[str, ...], name: str) -> Any:
    if isinstance(value, str) and value[:1] in ("{", "[", '"'):
        try:
            value = json.loads(value)
        except ValueError:
            return value
    while isinstance(value, Mapping) and not value.keys() & {"role", "from"}:
        choices = value.get("choices")
        if isinstance(choices, list) and choices and isinstance(choices[0], Mapping):
            return choices[0].get("message")
        inner = [key for key in names if value.get(key) is not None]
        if len(inner) != 1:
            raise InvalidInput(
                f"{name} has the text under no usual name ({', '.join(map(str, list(value)[:9]))}); "
                "write it as "
                "messages, or import the rows as prompt, completion and label.",
                field=name,
            )
        value = value[inner[0]]
    return value


def _is_langfuse(record: Columns, _options: ImportOptions) -> bool:
    score = record.keys() >= {"traceId", "dataType"} or record.keys() >= {"trace_id", "data_type"}
    return score or (isinstance(record.get("scores"), list) and record.keys() >= {"input", "output"})


def _is_mlflow(record: Columns, _options: ImportOptions) -> bool:
    info = record.get("info")
    return (isinstance(info, Mapping) and "assessments" in info) or record.keys() >= {
        "request",
        "assessments",
    }


LANGFUSE = Format(
    "langfuse",
    "Langfuse's traces with scores: input, output, scores",
    "a row for each score by a person: BOOLEAN as it is, NUMERIC by `up_from` and `down_to`, CATEGORICAL "
    "as a label. "
    "Scores without their traces are refused: they have no text",
    _is_langfuse,
    langfuse_rows,
    (
        Sample(
            "",
            {
                "id": "t1",
                "input": {"messages": [{"role": "user", "content": "Name a dance."}]},
                "output": {"role": "assistant", "content": "Tango."},
                "scores": [
                    {
                        "name": "thumb",
                        "value": 1,
                        "dataType": "BOOLEAN",
                        "source": "API",
                        "authorUserId": "u1",
                    },
                    {"name": "judge", "value": 0, "dataType": "BOOLEAN", "source": "EVAL"},
                ],
            },
        ),
    ),
    OPTIONS,
    frozenset(
        {"observations", "latency", "totalCost", "release", "public", "environment", "bookmarked", "tags"}
    ),
)
MLFLOW = Format(
    "mlflow",
    "MLflow's traces: info with assessments, data with request and response",
    "a row for each assessment by a person; those of judges are dropped",
    _is_mlflow,
    mlflow_rows,
    (
        Sample(
            "",
            {
                "info": {
                    "trace_id": "t1",
                    "assessments": [
                        {
                            "assessment_name": "helpful",
                            "feedback": {"value": True},
                            "source": {"source_type": "HUMAN", "source_id": "u1"},
                            "rationale": "Yes.",
                        }
                    ],
                },
                "data": {"request": '{"question": "Name a dance."}', "response": '"Tango."'},
            },
        ),
    ),
    OPTIONS,
    frozenset(
        {"spans", "tags", "state", "execution_duration", "request_preview", "response_preview", "trace"}
    ),
)
