"""Records with several rated replies to one prompt: UltraFeedback, and as distilabel writes it."""

from collections.abc import Mapping
from typing import Any

from storage.errors import InvalidInput
from storage.imports.files.records import kind_of
from storage.imports.rows.cells import read_list, read_number
from storage.imports.rows.fields import Fields
from storage.imports.rows.format import Columns, Format, Rows, Sample, by_score, prompt_turns, rated_row
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped

ASPECTS = ("instruction_following", "honesty", "truthfulness", "helpfulness")
FINE = "fine-grained_score"  # overall_score has thousands of 10s that were meant as 1
UNRATED = ("N/A", "", None)
THRESHOLDS = ("score_column", "up_from", "down_to")


def ultrafeedback_rows(fields: Fields) -> Rows:
    """A row for each completion, by its fine-grained score or the mean of its aspects."""
    prompt = _prompt(fields)
    for at, completion in enumerate(read_list(fields.get("completions"), "completions")):
        if not isinstance(completion, Mapping):
            raise InvalidInput(
                f"completions.{at} must be an object, not {kind_of(completion)}.", field="completions"
            )
        inner = fields.inner(completion)
        column = fields.options.score_column or FINE
        score = _score(inner, column)
        inner.get("annotations")
        system = inner.get("custom_system_prompt")
        turns = [*prompt, *inner.turns("response", "assistant")]
        if score is None:
            yield Dropped("a reply without a rating")
            continue
        label = by_score(score, column, fields.options)
        row = rated_row(
            fields.inner({"model": inner.get("model"), "system": system}), turns, "response", label is True
        )
        yield row if isinstance(label, bool) else label
        fields.take(inner, {"principle", "critique"})


def _score(completion: Fields, column: str) -> float | None:
    if completion.get(column) not in UNRATED:
        return read_number(completion[column], column)
    ratings = completion.get("annotations")
    if column != FINE or not isinstance(ratings, Mapping):
        return None
    given = [one.get("Rating") for name in ASPECTS if isinstance(one := ratings.get(name), Mapping)]
    numbers = [read_number(rating, "Rating") for rating in given if rating not in UNRATED]
    return sum(numbers) / len(numbers) if numbers else None


def distilabel_rows(fields: Fields) -> Rows:
    """A row for each generation with its rating."""
    prompt = _prompt(fields)
    generations, ratings = (
        read_list(fields.get("generations"), "generations"),
        read_list(fields.get("ratings"), "ratings"),
    )
    models = read_list(fields.get("generation_models"), "generation_models") or [None] * len(generations)
    if not len(generations) == len(ratings) == len(models):
        raise InvalidInput(
            f"There are {len(generations)} generations, {len(ratings)} ratings and {len(models)} models.",
            field="ratings",
        )
    system = fields.get("system")
    for at, (rating, model) in enumerate(zip(ratings, models, strict=True)):
        if rating in UNRATED:
            yield Dropped("a reply without a rating")
            continue
        label = by_score(read_number(rating, f"ratings.{at}"), "ratings", fields.options)
        one = fields.inner({"generation": generations[at], "model": model, "system": system})
        row = rated_row(
            one, [*prompt, *one.turns("generation", "assistant")], f"generations.{at}", label is True
        )
        yield row if isinstance(label, bool) else label


def _prompt(fields: Fields) -> list[Any]:
    found = prompt_turns(fields, ())
    if found is None:
        raise fields.missing("prompt")
    return found[0]


def _is_ultrafeedback(record: Columns, _options: ImportOptions) -> bool:
    completions = record.get("completions")
    return isinstance(completions, list) and any(
        isinstance(one, Mapping) and one.keys() & {"annotations", "overall_score", FINE}
        for one in completions
    )


def _completion(response: str, rating: str, overall: float, fine: float) -> dict[str, Any]:
    return {
        "annotations": {name: {"Rating": rating} for name in ASPECTS},
        "custom_system_prompt": "Be helpful.",
        "model": "m1",
        "response": response,
        "overall_score": overall,
        FINE: fine,
    }


BOUNDS = ImportOptions(up_from=4, down_to=2)
ULTRAFEEDBACK = Format(
    "ultrafeedback",
    "UltraFeedback: instruction, completions with annotations",
    "a row for each completion, by its `fine-grained_score` or else the mean of its four ratings "
    "(`score_column` "
    "names another); `custom_system_prompt` is the system prompt",
    _is_ultrafeedback,
    ultrafeedback_rows,
    (
        Sample(
            "",
            {
                "source": "evol_instruct",
                "instruction": "Name a metal.",
                "completions": [_completion("Iron.", "5", 8.5, 5.0), _completion("Wood.", "N/A", 10.0, 1.25)],
                "correct_answers": ["None"],
            },
            BOUNDS,
        ),
    ),
    THRESHOLDS,
    scored=True,
)
DISTILABEL = Format(
    "distilabel",
    "distilabel's UltraFeedback: instruction, generations, ratings",
    "a row for each generation with a rating",
    lambda record, _: isinstance(record.get("generations"), list) and isinstance(record.get("ratings"), list),
    distilabel_rows,
    (
        Sample(
            "",
            {
                "instruction": "Name a metal.",
                "generations": ["Iron.", "Wood."],
                "generation_models": ["m1", "m2"],
                "ratings": [5, 1],
                "rationales": ["It is one.", "It is none."],
            },
            BOUNDS,
        ),
    ),
    ("up_from", "down_to"),
    frozenset({"rationales", "raw_generation_responses", "ultrafeedback_model"}),
    scored=True,
)
