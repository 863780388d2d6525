"""Rows with a label: TRL's KTO data, LLaMA-Factory's two forms of it, and replies with a score."""

import re
from dataclasses import replace

from storage.errors import InvalidInput
from storage.imports.files.tables import LABELS
from storage.imports.rows.cells import read_label, read_number
from storage.imports.rows.fields import CHATS, REPLIES, Fields
from storage.imports.rows.format import (
    Columns,
    Format,
    Rows,
    Sample,
    by_score,
    conversation,
    first_name,
    is_ours,
    never_cast,
    prompt_turns,
    rated_row,
    whole_conversation,
)
from storage.imports.rows.options import ImportOptions

SCORES = ("score", "rating")
# What else may hold the reply of a model. None of these is taken for it unless `columns` says so.
GENERATED = re.compile(
    r"(model|llm|ai|bot|assistant|generated|predicted|system|student)_?"
    r"(output|response|answer|reply|completion|text|prediction|generation)s?|"
    r"predictions?|predicted|generated|generations?|hypothesis|candidate",
    re.IGNORECASE,
)
ASPECTS = ("helpfulness", "correctness", "coherence", "complexity", "verbosity", "overall_score", "quality")


def kto_rows(fields: Fields) -> Rows:
    if isinstance(fields.get("prompt"), str) and is_ours(fields):
        raise InvalidInput(
            "This is an export of the shape kto-text: its prompt has a chat template in it, which a model "
            "would get twice. Export the shape kto and import that.",
            field="prompt",
        )
    name = _reply(fields) or "completion"
    turns = conversation(fields, name, prompt_turns(fields))
    yield never_cast(fields) or rated_row(fields, turns, name, _label(fields))


def sharegpt_rows(fields: Fields) -> Rows:
    name = fields.one_of(CHATS, "reply") or CHATS[0]
    turns = whole_conversation(fields, name)
    yield never_cast(fields) or rated_row(fields, turns, name, _label(fields))


def rated_rows(fields: Fields) -> Rows:
    options = fields.options
    column = _score_column(fields)
    score = read_number(fields.get(column), column)
    if column == "score" and not _is_asked(options) and "id" in fields and score * 2 % 1:
        raise InvalidInput(
            f"score {score:g} may be how well the record fits a search, which Argilla writes there; if "
            "people gave it, say score_column=score.",
            field="score_column",
        )
    name = _reply(fields) or fields.one_of(CHATS, "reply") or REPLIES[0]
    turns = (
        whole_conversation(fields, name)
        if name in CHATS
        else conversation(fields, name, prompt_turns(fields))
    )
    label = by_score(score, column, options)
    row = rated_row(fields, turns, name, label is True)
    if options.raters == "mean":
        label, row = True, replace(row, score=score)
    yield never_cast(fields) or (row if isinstance(label, bool) else label)


def _reply(fields: Fields) -> str | None:
    """The column of the reply; raises InvalidInput if another one may hold what the model wrote.

    Then the first may be a gold answer, which nobody rated.
    """
    name = fields.one_of(REPLIES, "reply")
    if name is not None and "completion" not in fields.options.meant.values():
        for other in fields:
            if isinstance(other, str) and GENERATED.fullmatch(other) and fields.has(other):
                raise InvalidInput(
                    f"{name} and {other} may both be the reply; say which it is: columns=reply={other} or "
                    f"leave_out={other}.",
                    field="columns",
                )
    return name


def _is_asked(options: ImportOptions) -> bool:
    return options.score_column is not None or "score" in options.meant.values()


def _score_column(fields: Fields) -> str:
    """The column of the score; two that may be it are never chosen between, even if they are equal here."""
    options = fields.options
    full = (
        [options.score_column or SCORES[0]]
        if _is_asked(options)
        else [name for name in (*SCORES, *ASPECTS) if fields.has(name)]
    )
    if len(full) > 1:
        raise InvalidInput(
            f"{full[0]} and {full[1]} may both be the score; say which it is: score_column={full[0]}.",
            field="score_column",
        )
    return full[0] if full else SCORES[0]


def _label(fields: Fields) -> bool:
    name = fields.one_of(LABELS, "label") or LABELS[0]
    return read_label(fields.get(name), name, fields.options)


def _is_labelled(record: Columns) -> bool:
    return any(name in record for name in LABELS)


def _is_rated(record: Columns, options: ImportOptions) -> bool:
    scores = (options.score_column,) if options.score_column else (*SCORES, *ASPECTS)
    return first_name(record, scores) is not None and first_name(record, (*REPLIES, *CHATS)) is not None


def _is_kto(record: Columns, _options: ImportOptions) -> bool:
    replies = [name for name in REPLIES if name in record]
    known = [*replies, *(name for name in LABELS if name in record)]
    return bool(replies) and _is_labelled(record) and any(record[name] is not None for name in known)


KTO = Format(
    "kto",
    "TRL's KTO rows: prompt, completion, label; also instruction, input, output, kto_tag",
    "TRL's unpaired preference and LLaMA-Factory's alpaca form, as messages or plain text",
    _is_kto,
    kto_rows,
    (
        Sample(
            "TRL",
            {
                "prompt": [{"role": "user", "content": "What is 2 + 2?"}],
                "completion": [{"role": "assistant", "content": "4"}],
                "label": True,
            },
        ),
        Sample(
            "a whole conversation, as in kto-mix-15k",
            {
                "completion": [
                    {"role": "user", "content": "Name a sport."},
                    {"role": "assistant", "content": "Chess boxing."},
                ],
                "label": True,
            },
        ),
        Sample(
            "LLaMA-Factory's alpaca form",
            {
                "instruction": "Translate to French.",
                "input": "Good day",
                "output": "Bonjour",
                "history": [["Hello", "Hi! What shall I translate?"]],
                "kto_tag": True,
            },
        ),
        Sample(
            "columns of your own",
            {"question": "Name a river.", "text": "The Elbe.", "gold": "The Rhine.", "ok": "good"},
            ImportOptions(columns="prompt=question,reply=text,label=ok,reference=gold"),
        ),
    ),
    ("up_words", "down_words", "raters"),
    rated_apart=True,
)
SHAREGPT = Format(
    "sharegpt",
    "LLaMA-Factory's KTO rows: conversations or messages, kto_tag or label",
    "as LLaMA-Factory and ms-swift read KTO data",
    lambda record, _: bool(first_name(record, CHATS)) and _is_labelled(record),
    sharegpt_rows,
    (
        Sample(
            "LLaMA-Factory",
            {
                "conversations": [
                    {"from": "human", "value": "Name a river."},
                    {"from": "gpt", "value": "The Elbe."},
                ],
                "system": "Be brief.",
                "kto_tag": True,
            },
        ),
        Sample(
            "ms-swift",
            {
                "messages": [
                    {"role": "user", "content": "Name a lake."},
                    {"role": "assistant", "content": "A stone."},
                ],
                "label": False,
            },
        ),
    ),
    ("up_words", "down_words", "raters"),
    rated_apart=True,
)
RATED = Format(
    "rated",
    "rated replies: prompt, completion or response, score or rating",
    "a thumb up from `up_from` on, down up to `down_to`; between them the row is dropped",
    _is_rated,
    rated_rows,
    (
        Sample(
            "a score from 1 to 5",
            {"prompt": "Name a tree.", "response": "An oak.", "rating": 5, "annotator": "a1"},
            ImportOptions(up_from=4, down_to=2),
        ),
        Sample(
            "HelpSteer 2, earlier turns as text",
            {
                "prompt": "A title of bees\n<extra_id_1>Assistant\nThe Busy Hive\n<extra_id_1>User\nShorter",
                "response": "Bees",
                "helpfulness": 4,
                "correctness": 4,
                "coherence": 4,
                "complexity": 1,
                "verbosity": 0,
            },
            ImportOptions(score_column="helpfulness", up_from=3, down_to=1),
        ),
    ),
    ("score_column", "up_from", "down_to", "raters"),
    scored=True,
    rated_apart=True,
)
