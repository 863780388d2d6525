"""Replies and which is better: chatbot arenas, MT-Bench's judgments, HelpSteer's preferences, Nectar's ranks.

KTO needs no winner: where both replies are bad, both are thumbs down. A tie is dropped.
"""

import json
from collections.abc import Sequence
from typing import Any

from storage.chats.conversation import Turn
from storage.errors import InvalidInput
from storage.imports.rows.cells import read_note, read_number, read_time, shown
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample, filled, first_name, prompt_turns
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from storage.imports.rows.turns import checked, with_system

SIDES = ("a", "b")
WINNERS = {"model_a": "a", "model_b": "b", "a": "a", "b": "b"}
BOTH_BAD = ("tie (bothbad)", "both_bad", "bothbad", "tie (both bad)")
BOTH_GOOD = ("both_good", "bothgood", "tie (bothgood)")
STRENGTHS = ("overall_preference", "preference_strength")
ABOUT_ARENA = (
    "turn anony conv_metadata is_code is_refusal dedup_tag category_tag judge_hash evaluation_order "
    "full_conversation winner_model_a winner_model_b winner_tie"
)
STRONGEST = 3  # of the preferences of HelpSteer


def arena_rows(fields: Fields) -> Rows:
    if first_name(fields, ("conversation_a", "response_a")) == "response_a":
        said = [_split_turns(fields, side) for side in SIDES]
    else:
        said = [_json_turns(fields, f"conversation_{side}") for side in SIDES]
    asked = [[turn.content for turn in turns if turn.role == "user"] for turns in said]
    if asked[0] != asked[1]:
        raise InvalidInput("The two conversations ask different questions.", field="conversation_b")
    judge = fields.get("judge")
    if isinstance(judge, str) and judge.startswith("gpt"):
        yield Dropped("judged by a model", 2)
        return
    winner = _winner(fields)
    if said[0] == said[1] and winner in SIDES:
        yield Dropped("both replies are the same", 2)
        return
    if winner == "tie":
        yield Dropped("a tie", 2)
        return
    question = fields.get("question_id") or fields.get("id")
    person = judge or fields.get("evaluation_session_id")
    at = read_time(fields.get("tstamp") or fields.get("timestamp"), "tstamp")
    models = [fields.get(f"model_{side}") for side in SIDES]
    for side, turns, model in zip(SIDES, said, models, strict=True):
        place = (
            f"{question}/{models[0]}/{models[1]}/{fields.get('turn')}/{fields.get('evaluation_order')}/{side}"
        )
        yield ImportedRow(
            checked(turns, f"conversation_{side}"),
            winner in (side, "good"),
            model=read_note(model, f"model_{side}"),
            voted_at=at,
            ballot=(place, str(person)) if question and person else None,
        )


def _winner(fields: Fields) -> str:
    """a, b, tie, good or bad."""
    if "winner" not in fields:  # arena-human-preference-55k
        won = [side for side in SIDES if str(fields.get(f"winner_model_{side}")) in ("1", "1.0", "True")]
        return won[0] if len(won) == 1 else "tie"
    winner = fields["winner"]
    known = winner.casefold() if isinstance(winner, str) else ""
    if known in BOTH_BAD:
        return "bad"
    if known in BOTH_GOOD:
        return "good"
    if known != "tie" and known not in WINNERS:
        raise InvalidInput(
            f"winner must be model_a, model_b, tie or both_bad, not {shown(winner)}.", field="winner"
        )
    return WINNERS.get(known, known)


def _json_turns(fields: Fields, name: str) -> list[Turn]:
    """The conversation up to the turn that was judged: MT-Bench keeps both turns whichever it was."""
    turns = fields.turns(name, "assistant")
    judged = int(read_number(fields["turn"], "turn")) if fields.has("turn") else 0
    if judged > 0:
        users = [at for at, turn in enumerate(turns) if turn.role == "user"]
        turns = turns[: users[judged]] if len(users) > judged else turns
    return turns


def _split_turns(fields: Fields, side: str) -> list[Turn]:
    """The 55k's two lists, of prompts and of replies, as JSON."""
    prompts, replies = _texts(fields, "prompt"), _texts(fields, f"response_{side}")
    if len(prompts) != len(replies):
        raise InvalidInput(
            f"prompt has {len(prompts)} turns and response_{side} {len(replies)}.", field=f"response_{side}"
        )
    both = zip(prompts, replies, strict=True)
    return [turn for asked, reply in both for turn in (Turn("user", asked), Turn("assistant", reply))]


def _texts(fields: Fields, name: str) -> Sequence[str]:
    value = fields.get(name)
    if isinstance(value, str) and value.startswith("["):
        try:
            value = json.loads(value)
        except ValueError as error:
            raise InvalidInput(f"{name} must be a list of texts as JSON.", field=name) from error
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise InvalidInput(f"{name} must be a list of texts; one of them is no text.", field=name)
    return texts


def helpsteer_rows(fields: Fields) -> Rows:
    """HelpSteer 2 and 3: below zero the first response is better, above zero the second; zero is a tie."""
    names = [first_name(fields, (f"response_{n}", f"response{n}")) or f"response{n}" for n in (1, 2)]
    if fields.has("context"):
        beginning = fields.turns("context", "user")
    else:
        found = prompt_turns(fields, ())
        if found is None:
            raise fields.missing("prompt")
        beginning = found[0]
    rows = [beginning + fields.turns(name, "assistant") for name in names]
    column = first_name(fields, STRENGTHS) or STRENGTHS[0]
    for person, strength in _strengths(fields, column):
        margin = fields.options.min_margin
        if abs(strength) > STRONGEST:
            raise InvalidInput(
                f"{column} must be from -{STRONGEST} to {STRONGEST}, not {strength:g}.", field=column
            )
        if strength == 0:
            yield Dropped("a tie", 2)
        elif margin is not None and abs(strength) < margin:
            yield Dropped(f"a preference weaker than {margin:g}", 2)
        else:
            for at, (name, turns) in enumerate(zip(names, rows, strict=True)):
                system = with_system(turns, fields.get("system"))
                ballot = ("", person) if person else None  # the text says which response it is
                yield ImportedRow(checked(system, name), (strength > 0) == (at == 1), ballot=ballot)


def _strengths(fields: Fields, column: str) -> list[tuple[str, float]]:
    """The preference of all, or of each person if the option says so."""
    overall = read_number(fields.get(column), column)
    each = fields.get("individual_preference")
    if fields.options.raters is None:
        return [("", overall)]
    if not isinstance(each, list) or not each:
        raise InvalidInput("individual_preference must be a list of each person's score.", field="raters")
    scores = [read_number(one.get("score") if isinstance(one, dict) else one, "score") for one in each]
    if fields.options.raters == "each":
        return [(f"#{number}", score) for number, score in enumerate(scores)]
    if fields.options.raters == "mean":
        return [("", sum(scores) / len(scores))]
    balance = sum((score > 0) - (score < 0) for score in scores)
    return [("", float(balance))]


def nectar_rows(fields: Fields) -> Rows:
    """The best rank of several replies is a thumb up, the worst a thumb down."""
    answers = fields.get("answers")
    if not isinstance(answers, list) or not all(isinstance(one, dict) for one in answers):
        raise InvalidInput("answers must be a list of objects with answer and rank.", field="answers")
    found = prompt_turns(fields, ())
    if found is None:
        raise fields.missing("prompt")
    ranks = [read_number(one.get("rank"), f"answers.{at}.rank") for at, one in enumerate(answers)]
    for at, (one, rank) in enumerate(zip(answers, ranks, strict=True)):
        if min(ranks) == max(ranks):
            yield Dropped("a tie")
        elif rank in (min(ranks), max(ranks)):
            inner = fields.inner(one)
            turns = [*found[0], *inner.turns("answer", "assistant")]
            model = read_note(inner.get("model"), "model")
            yield ImportedRow(checked(turns, f"answers.{at}.answer"), rank == min(ranks), model=model)
        else:
            yield Dropped("ranked in between")


def _is_arena(record: Columns, _options: ImportOptions) -> bool:
    conversations = filled(record, "conversation_a", "conversation_b") and "winner" in record
    return conversations or filled(record, "response_a", "response_b", "winner_model_a")


def _is_helpsteer(record: Columns, _options: ImportOptions) -> bool:
    return first_name(record, STRENGTHS) is not None and (
        filled(record, "response1", "response2") or filled(record, "response_1", "response_2")
    )


def _is_nectar(record: Columns, _options: ImportOptions) -> bool:
    answers = record.get("answers")
    return isinstance(answers, list) and any(isinstance(one, dict) and "rank" in one for one in answers)


SEA = {"role": "user", "content": "Name a sea."}


def _vote(winner: str) -> dict[str, Any]:
    replies = {"a": "The North Sea.", "b": "A lake."}
    return {
        "question_id": "q0",
        "model_a": "x",
        "model_b": "y",
        "winner": winner,
        "judge": "u1",
        **{f"conversation_{side}": [SEA, {"role": "assistant", "content": replies[side]}] for side in SIDES},
        "turn": 1,
    }


ARENA = Format(
    "arena",
    "arena votes and MT-Bench's judgments: conversation_a, conversation_b (or response_a, response_b), "
    "winner",
    "the winner is a thumb up, the other a thumb down; two thumbs of one kind if both were bad, or good; "
    "no rows for a "
    "tie or "
    "if a model was the judge",
    _is_arena,
    arena_rows,
    (
        Sample("a winner", _vote("model_a")),
        Sample("both bad", _vote("tie (bothbad)")),
        Sample("a tie", _vote("tie")),
        Sample(
            "arena-human-preference-55k",
            {
                "id": 1,
                "model_a": "x",
                "model_b": "y",
                "prompt": '["Name a sea."]',
                "response_a": '["A lake."]',
                "response_b": '["The North Sea."]',
                "winner_model_a": 0,
                "winner_model_b": 1,
                "winner_tie": 0,
            },
        ),
    ),
    ignores=frozenset(ABOUT_ARENA.split()),
)
HELPSTEER = Format(
    "helpsteer-pairs",
    "HelpSteer 2 and 3: response1, response2, overall_preference (or preference_strength)",
    "below zero the first response is better, above zero the second; no rows for zero; `raters` takes each "
    "person's preference, their mean or their majority",
    _is_helpsteer,
    helpsteer_rows,
    (
        Sample(
            "HelpSteer 3",
            {
                "domain": "general",
                "language": "english",
                "context": [{"role": "user", "content": "Name a sea."}],
                "response1": "The North Sea.",
                "response2": "A lake.",
                "overall_preference": -2,
                "individual_preference": [{"score": -2, "reasoning": "A lake is no sea."}, {"score": 1}],
            },
        ),
    ),
    ("min_margin", "raters"),
    frozenset({"preference_statement", "preference_elaboration", "individual_preference"}),
)
NECTAR = Format(
    "nectar",
    "Nectar: prompt, answers with answer and rank",
    "the best rank is a thumb up, the worst a thumb down",
    _is_nectar,
    nectar_rows,
    (
        Sample(
            "",
            {
                "prompt": "\n\nHuman: Name a sea.\n\nAssistant: ",
                "answers": [
                    {"answer": "The North Sea.", "model": "x", "rank": 1.0},
                    {"answer": "The Thames.", "model": "y", "rank": 2.0},
                    {"answer": "A lake.", "model": "z", "rank": 3.0},
                ],
                "turns": 1,
                "num_responses": 3,
                "good_natured": True,
            },
        ),
    ),
    ignores=frozenset({"turns", "good_natured"}),
)
