"""Votes that applications log one by one: Dify's feedback, and what Gradio's own chat writes."""

import json
from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.rows.cells import read_label, read_note, read_time
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked

CUT = 500  # characters, after which Dify's export ends a text with three dots
ABOUT_DIFY = "app_name app_id conversation_name feedback_rating has_comment feedback_date message_date"


def dify_rows(fields: Fields) -> Rows:
    fields.note("earlier turns")  # which Dify's export does not have, though the model read them
    listed = fields.get("feedback_data")
    for one in listed if isinstance(listed, list) else [fields]:
        yield from _dify_vote(one if isinstance(one, Fields) else fields.inner(one, "feedback_data"))


def _dify_vote(vote: Fields) -> Rows:
    name = next((n for n in ("feedback_rating_raw", "feedback_rating") if vote.get(n)), "feedback_rating_raw")
    asked, reply = vote.get("user_query"), vote.get("ai_response")
    for text in (asked, reply):
        if isinstance(text, str) and len(text) == CUT + 3 and text.endswith("..."):
            yield Dropped(f"a text that Dify cut at {CUT} characters")
            return
    label = read_label(vote.get(name), name, vote.options)
    person = next((str(vote[n]) for n in ("from_end_user_id", "from_account_name") if vote.get(n)), "")
    turns = [*vote.turns("user_query", "user"), *vote.turns("ai_response", "assistant")]
    yield ImportedRow(
        checked(turns, "ai_response"),
        label,
        comment=read_note(vote.get("feedback_comment"), "feedback_comment"),
        voted_at=read_time(vote.get("feedback_date"), "feedback_date"),
        ballot=(str(vote.get("message_id")), f"{vote.get('feedback_source')}/{person}") if person else None,
    )


def gradio_rows(fields: Fields) -> Rows:
    """The conversation as it stood, and which of its messages was voted on."""
    conversation, flag = fields.get("conversation"), fields.get("flag")
    if isinstance(conversation, str):
        try:
            conversation = json.loads(conversation)
        except ValueError as error:
            raise InvalidInput("conversation must be messages as JSON.", field="conversation") from error
    index = str(fields.get("index")).strip("[]() ").partition(",")[0]  # a number, or [number, side]
    if not isinstance(conversation, list) or not index.isdigit() or int(index) >= len(conversation):
        raise InvalidInput(
            f"index must be the place of a message in conversation, not {index[:80]!r}.", field="index"
        )
    if flag is None or flag == "":
        yield Dropped("a vote that was taken back")
        return
    inner = fields.inner({"conversation": conversation[: int(index) + 1]})
    yield ImportedRow(
        checked(inner.turns("conversation", "assistant"), "the rated message"),
        read_label(flag, "flag", fields.options),
        voted_at=read_time(fields.get("timestamp"), "timestamp"),
    )
    fields.get("value")


def _is_dify(record: Columns, _options: ImportOptions) -> bool:
    listed = record.get("feedback_data")
    return record.keys() >= {"user_query", "ai_response"} or (
        isinstance(listed, list) and all(isinstance(one, Mapping) for one in listed)
    )


def _is_gradio(record: Columns, _options: ImportOptions) -> bool:
    return record.keys() >= {"conversation", "index", "flag"}


DIFY_VOTE: dict[str, Any] = {
    "feedback_id": "f1",
    "app_name": "Helper",
    "message_id": "m1",
    "user_query": "Name a dance.",
    "ai_response": "Tango.",
    "feedback_rating": "👍",
    "feedback_rating_raw": "like",
    "feedback_comment": "Yes.",
    "feedback_source": "user",
    "feedback_date": "2026-01-02 03:04:05",
    "from_end_user_id": "u1",
    "has_comment": "Yes",
}
DIFY = Format(
    "dify",
    "Dify's feedback, JSON or CSV: user_query, ai_response, feedback_rating_raw",
    "a row for each vote, of one question and its reply: the export has no earlier turns, which the "
    "report says. Texts that it "
    "cut at 500 "
    "characters are dropped",
    _is_dify,
    dify_rows,
    (
        Sample("a line of the CSV", DIFY_VOTE),
        Sample(
            "JSON", {"export_info": {}, "feedback_data": [DIFY_VOTE | {"ai_response": "x" * CUT + "..."}]}
        ),
    ),
    ("up_words", "down_words"),
    frozenset([*ABOUT_DIFY.split(), "export_info"]),
)
GRADIO = Format(
    "gradio",
    "the log.csv of Gradio's chat: conversation, index, flag",
    "the message at `index` on its conversation; `Like` and `Dislike`, other flags by `up_words` and "
    "`down_words`",
    _is_gradio,
    gradio_rows,
    (
        Sample(
            "",
            {
                "conversation": [
                    {"role": "user", "content": "Name a dance."},
                    {"role": "assistant", "content": "Tango."},
                ],
                "index": 1,
                "flag": "Like",
                "timestamp": "2026-01-02 03:04:05.678901",
            },
        ),
    ),
    ("up_words", "down_words"),
)
