"""Preference pairs: a preferred and a rejected reply are a thumb up and a thumb down.

Equal ratings, a tie, and a chosen reply rated below the rejected one are no preference: such pairs are
dropped.
"""

from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.rows.cells import has_decimal_comma, read_number
from storage.imports.rows.fields import CHATS, Fields
from storage.imports.rows.format import (
    Columns,
    Format,
    Rows,
    Sample,
    conversation,
    filled,
    first_name,
    never_cast,
    prompt_turns,
    rated_row,
)
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped

# Column names in data sets of Argilla, Hugging Face and others; {} is chosen or rejected.
RATINGS = (
    *("rating_{}", "{}_rating", "{}-rating", "score_{}", "{}_score", "{}_avg_rating"),
    *("reward_{}", "{}_reward"),
)
SIDES = ("chosen", "rejected")
# By how much the chosen reply is better, where the replies themselves have no ratings.
DIFFERENCES = ("margin", "score_margin", "rating_margin", "reward_margin")
# What may say that the other reply is the better one.
PREFERRED = ("winner", "preferred", "preference", "better", "label")
STATUSES = ("tie", "swapped", "unchanged")  # of Argilla's Orca pairs
MARGINS = ("min_rating", "max_rating_rejected", "min_margin")
# Of Argilla's Orca pairs and Capybara: how the pair was made, which the replies' model never read.
MAKING = (
    "generations order labelling_prompt raw_labelling_response rationale original_chosen original_rejected "
    "original_response generation_prompt raw_generation_responses new_generations"
)


def pair_rows(fields: Fields) -> Rows:
    repeated = fields.has("messages") and fields.peek("messages") == fields.peek("chosen")
    beginning = prompt_turns(fields, () if repeated else CHATS)
    if repeated:
        fields.get("messages")  # UltraFeedback repeats the chosen conversation there
    halves = []
    for name, label in (("chosen", True), ("rejected", False)):
        turns = conversation(fields, name, beginning)
        halves.append(rated_row(fields, turns, name, label, side=f"{name}_"))
    chosen, rejected = halves
    if chosen.turns[:-1] != rejected.turns[:-1]:
        raise InvalidInput("chosen and rejected differ before their last message.", field="rejected")
    if (never := never_cast(fields)) is not None:
        yield Dropped(never.reason, 2)
    elif chosen.turns == rejected.turns:
        yield Dropped("chosen and rejected are the same", 2)
    elif (why := _no_preference(fields)) is not None:
        yield Dropped(why, 2)
    else:
        yield from halves


def _no_preference(fields: Fields) -> str | None:
    """Why the record says that there is no preference, or not enough of one for the options."""
    options = fields.options
    _check_sides(fields)
    column, good, bad = _ratings(fields)
    both = fields.peek("rating")
    if isinstance(both, list) and len(both) == 2 and all(isinstance(one, int | float) for one in both):
        high, low = max(fields["rating"]), min(both)
        good, bad = high if good is None else good, low if bad is None else bad
    status = fields.peek("status")
    if isinstance(status, str) and status.casefold() in STATUSES and fields["status"].casefold() == "tie":
        return "a tie"
    if any(str(fields.peek(name)).casefold() == "true" and fields[name] for name in ("tie", "is_tie")):
        return "a tie"
    if (least := options.min_rating) is not None and _known(good, fields, column, "chosen") < least:
        return f"chosen is rated below {least:g}"
    if (most := options.max_rating_rejected) is not None and _known(bad, fields, column, "rejected") > most:
        return f"rejected is rated above {most:g}"
    if good is None and bad is None:
        name = first_name(fields, DIFFERENCES)
        if name is not None and (difference := _number(fields, name)) is not None:
            fields.get(name)
            good, bad = difference, 0.0
    if (margin := options.min_margin) is not None:
        good, bad = _known(good, fields, column, "chosen"), _known(bad, fields, column, "rejected")
    if good is None or bad is None:
        return None
    if good == bad:
        return "chosen and rejected are rated alike"
    if good < bad:
        return "chosen is rated below rejected"
    return f"chosen is rated less than {margin:g} above rejected" if margin and good - bad < margin else None


def _check_sides(fields: Fields) -> None:
    """Raise InvalidInput if a column says that the rejected reply is preferred."""
    for name in PREFERRED:
        said = str(fields.peek(name)).casefold()
        if said in ("false", "rejected"):
            raise InvalidInput(
                f"{name} is {fields.peek(name)!r}, as if the rejected reply were the better one; if it is "
                f"not, say leave_out={name}.",
                field=name,
            )
        if said in ("true", "chosen"):
            fields.get(name)


def _ratings(fields: Fields) -> tuple[str, float | None, float | None]:
    """The column of the ratings, with {} for the side, and both; raises InvalidInput if two columns disagree.

    A rating that is no number, such as N/A, is none; then the column is named as left out.
    """
    rated = {}
    for name in RATINGS:
        good, bad = (_number(fields, name.format(side)) for side in SIDES)
        if good is not None or bad is not None:
            rated[name] = good, bad
    preferring = {
        name: (good > bad) - (good < bad)
        for name, (good, bad) in rated.items()
        if good is not None and bad is not None
    }
    one = next(iter(preferring or rated), RATINGS[0])
    for name, preference in preferring.items():
        if preference != preferring[one]:
            raise InvalidInput(
                f"{one.format('chosen')} and {name.format('chosen')} rate the pair differently; say which to "
                f"leave out: leave_out={name.format('chosen')},{name.format('rejected')}.",
                field="leave_out",
            )
    for name in {one, *preferring} & rated.keys():
        for side, rating in zip(SIDES, rated[name], strict=True):
            if rating is not None:
                fields.get(name.format(side))
    return one, *rated.get(one, (None, None))


def _number(fields: Fields, column: str) -> float | None:
    value = fields.peek(column)
    if value is None:
        return None
    try:
        return read_number(value, column)
    except InvalidInput:
        if has_decimal_comma(value):  # a rating, whose loss would hide which reply is the better one
            raise
        return None


def _known(rating: float | None, fields: Fields, column: str, side: str) -> float:
    if rating is not None:
        return rating
    name = column.format(side)
    return read_number(fields.get(name), name)


def openai_rows(fields: Fields) -> Rows:
    """OpenAI's preference fine-tuning: `input` has the messages and the tools."""
    asked = fields.get("input")
    if not isinstance(asked, Mapping):
        raise InvalidInput("input must be an object with messages.", field="input")
    inner = fields.inner(asked)
    sides = {"chosen": fields.get("preferred_output"), "rejected": fields.get("non_preferred_output")}
    pair = fields.inner({"prompt": inner.get("messages"), "tools": inner.get("tools"), **sides})
    yield from pair_rows(pair)
    fields.take(inner, {"parallel_tool_calls"})
    fields.take(pair)


def swift_rows(fields: Fields) -> Rows:
    """ms-swift: the conversation ends with the preferred reply; the other one stands beside it."""
    turns = fields.turns("messages", "assistant")
    rejected: Any = fields.get("rejected_response") or fields.get("rejected_messages")
    if isinstance(rejected, str):
        before = turns[:-1]
        rejected = [turn.message for turn in before] + [{"role": "assistant", "content": rejected}]
    used = ("messages", "rejected_response", "rejected_messages")
    rest = {name: fields[name] for name in fields if name not in used}
    pair = fields.inner({**rest, "chosen": fields["messages"], "rejected": rejected})
    yield from pair_rows(pair)
    fields.take(pair)


def _is_pair(record: Columns, _options: ImportOptions) -> bool:
    return filled(record, "chosen", "rejected")


TREE = [{"role": "user", "content": "Name a tree."}]
OAK, STONE = ({"role": "assistant", "content": text} for text in ("An oak.", "A stone."))
PAIRS = Format(
    "pairs",
    "preference pairs: prompt, chosen, rejected",
    "a thumb up and a thumb down; a `prompt` column, or whole conversations that differ in the last message; "
    "no rows if they are rated alike, or chosen below rejected",
    _is_pair,
    pair_rows,
    (
        Sample("TRL", {"prompt": TREE, "chosen": [OAK], "rejected": [STONE]}),
        Sample(
            "UltraFeedback, binarized",
            {
                "prompt": "Name a tree.",
                "chosen": [*TREE, OAK],
                "rejected": [*TREE, STONE],
                "messages": [*TREE, OAK],
                "score_chosen": 8.5,
                "score_rejected": 4.0,
            },
        ),
        Sample(
            "HH-RLHF",
            {
                "chosen": "\n\nHuman: Name a bird.\n\nAssistant: A robin.",
                "rejected": "\n\nHuman: Name a bird.\n\nAssistant: No.",
            },
        ),
        Sample(
            "Orca pairs",
            {
                "system": "Be brief.",
                "question": "What is 2 + 2?",
                "chosen": "4.",
                "rejected": "It might be 5.",
            },
        ),
        Sample(
            "Orca pairs of distilabel",
            {
                "system": "",
                "input": "What is 2 + 2?",
                "chosen": "4.",
                "rejected": "5.",
                "rating": [9.0, 9.0],
                "status": "tie",
                "chosen_score": 9.0,
            },
        ),
        Sample(
            "LLaMA-Factory",
            {
                "conversations": [{"from": "human", "value": "Name a tree."}],
                "chosen": {"from": "gpt", "value": "An oak."},
                "rejected": {"from": "gpt", "value": "A stone."},
            },
        ),
    ),
    MARGINS,
    frozenset(MAKING.split()),
)
OPENAI = Format(
    "openai-preference",
    "OpenAI's preference fine-tuning: input, preferred_output, non_preferred_output",
    "a thumb up and a thumb down",
    lambda record, _: filled(record, "preferred_output", "non_preferred_output"),
    openai_rows,
    (
        Sample(
            "",
            {
                "input": {"messages": TREE, "tools": [], "parallel_tool_calls": True},
                "preferred_output": [OAK],
                "non_preferred_output": [STONE],
            },
        ),
    ),
)
SWIFT = Format(
    "swift-pairs",
    "ms-swift's pairs: messages, rejected_response",
    "a thumb up for the last message, a thumb down for the rejected response",
    lambda record, _: (
        "messages" in record and bool(first_name(record, ("rejected_response", "rejected_messages")))
    ),
    swift_rows,
    (Sample("", {"messages": [*TREE, OAK], "rejected_response": "A stone."}),),
)
