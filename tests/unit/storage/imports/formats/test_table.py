"""What a record of each format becomes: the rows, what is dropped, and why a record is refused."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest

from storage.errors import InvalidInput
from storage.imports.formats.table import FORMATS, check_options, named_format, rows_of, sniff
from storage.imports.rows.options import ImportOptions
from storage.imports.rows.row import Dropped, ImportedRow
from tests.support.imported import THRESHOLDS, convert, reason, row, short

ASKED = [{"role": "user", "content": "Hi"}]
CHAT = [*ASKED, {"role": "assistant", "content": "Hello"}, {"role": "user", "content": "More"}]


def said(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


# TRL's KTO rows


@pytest.mark.parametrize(
    "prompt", ["Hi", ASKED, ASKED[0], [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]]
)
@pytest.mark.parametrize("completion", ["Hello", said("Hello"), said("Hello")[0], [*ASKED, *said("Hello")]])
def test_kto_rows_in_every_shape_say_the_same(prompt: Any, completion: Any) -> None:
    found = row({"prompt": prompt, "completion": completion, "label": True, "other": object()})
    assert found == row({"prompt": "Hi", "completion": "Hello", "label": True})
    assert short([found]) == [("ua", "Hello", True)]


def test_a_whole_conversation_as_the_completion_needs_no_prompt() -> None:
    # Argilla's capybara-kto has its whole conversations in the completion, beside a prompt as text.
    for prompt in (None, [], "More", CHAT, CHAT[:1]):
        record = {"prompt": prompt, "completion": [*CHAT, *said("Well")], "label": False}
        assert short(convert(record)) == [("uaua", "Well", False)]


def test_kto_rows_keep_what_a_thumbloop_export_says_beside_the_vote() -> None:
    record = {
        "prompt": [{"role": "user", "content": "Hi"}],
        "completion": "Hello",
        "label": True,
        "message_id": "0198a000-0000-7000-8000-000000000000",
        "user_hash": "abc",
        "model_version": "v3",
        "voted_at": "2026-01-02T03:04:05.678901+00:00",
        "tags": '["kind", "short", "kind"]',
        "comment": "nice",
        "correction": "Hello!",
    }
    found = row(record)
    assert (found.model, found.comment, found.correction, found.tags) == (
        "v3",
        "nice",
        "Hello!",
        ("kind", "short"),
    )
    assert found.voted_at == datetime(2026, 1, 2, 3, 4, 5, 678901, UTC)
    other = row(record | {"message_id": "0198a000-0000-7000-8000-000000000001"})
    plain = row(record | {"message_id": "", "user_hash": ""})
    assert len({found.key, other.key, plain.key}) == 3  # votes on two replies that say the same are two votes
    assert plain.key == row({"prompt": "Hi", "completion": "Hello", "label": True}).key


@pytest.mark.parametrize(
    ("value", "moment"),
    [
        (1_700_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        (1_700_000_000_000_000_000, datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("2024-02-29", datetime(2024, 2, 29, tzinfo=UTC)),
        ("2024-02-29T01:00:00+01:00", datetime(2024, 2, 29, tzinfo=UTC)),
        (datetime(2024, 2, 29), datetime(2024, 2, 29, tzinfo=UTC)),
        (date(2024, 2, 29), datetime(2024, 2, 29, tzinfo=UTC)),
        ("1700000000", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000000.0", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("20240229", datetime(2024, 2, 29, tzinfo=UTC)),
        ("", None),
        (None, None),
    ],
)
def test_times(value: Any, moment: datetime | None) -> None:
    assert row({"prompt": "a", "completion": "b", "label": True, "voted_at": value}).voted_at == moment


KTO = {"prompt": "Hi", "completion": "Hello", "label": True}
BAD_KTO: list[tuple[dict[str, Any], str]] = [
    (
        {"label": "yes"},
        "label must be true (up) or false (down), not 'yes'. Say what your words mean with up_",
    ),
    ({"label": 1}, "label must be true (up) or false (down), not 1"),
    ({"label": 0.0}, "not 0.0"),
    ({"label": None}, "not null"),
    ({"label": [True]}, "not a list"),
    ({"completion": ""}, "completion is empty"),
    ({"completion": []}, "completion is missing"),
    ({"completion": None}, "completion is missing"),
    ({"completion": 7}, "completion must be text or a list of messages, not a number"),
    ({"completion": ASKED}, "completion must end with an assistant message"),
    ({"completion": said("a") + said("b")}, "one assistant message, not 2"),
    ({"completion": [{"role": "assistant", "content": None}]}, "completion.0.content must be text, not null"),
    ({"completion": [{"role": "assistant", "content": 5}]}, "not a number"),
    (
        {"completion": [{"role": "tool", "content": "x"}]},
        "completion must end with an assistant message",
    ),
    ({"completion": [{"content": "x"}]}, "completion.0.role must be system, developer, user or"),
    ({"completion": [["a"]]}, "completion.0 must be a message, not a list"),
    ({"prompt": None}, "prompt is missing"),
    ({"prompt": []}, "there are none"),
    ({"prompt": b"x"}, "not bytes"),
    ({"prompt": said("x")}, "must be the user's; there are assistant."),
    ({"prompt": [*ASKED, *said("x")]}, "must be the user's; there are user, assistant."),
    ({"prompt": [{"role": "system", "content": "alone"}]}, "there are none but the system's"),
    ({"prompt": CHAT, "completion": [*ASKED, *said("x")]}, "prompt is not the beginning"),
    ({"prompt": "Other", "completion": [*ASKED, *said("x")]}, "prompt is not a user message"),
    (
        {"prompt": [{"role": "user", "content": [{"type": "image", "url": "x"}]}]},
        "a part of the type 'image'",
    ),
    ({"prompt": "a\x00"}, "NUL"),
    ({"completion": "\ud800"}, "surrogate"),
    ({"comment": "\ud800"}, "surrogate"),
    ({"tags": ["a\x00"]}, "NUL"),
    ({"voted_at": "yesterday"}, "voted_at is not a time: 'yesterday'"),
    ({"voted_at": "2024-02-30"}, "voted_at is not a time"),
    ({"voted_at": 10**40}, "voted_at is not a time"),
    ({"voted_at": "2999-01-01"}, "voted_at '2999-01-01' is yet to come (2999-01-01 00:00 UTC)"),
    ({"voted_at": -62135596800}, "voted_at -62135596800 is before 2000 (1-01-01 00:00 UTC)"),
    ({"voted_at": "1999-12-31"}, "is before 2000"),
    ({"voted_at": True}, "voted_at"),
    ({"voted_at": [1]}, "voted_at"),
]


def test_an_export_with_a_template_in_it_is_refused() -> None:
    ours = {"message_id": "0198a000-0000-7000-8000-000000000000", "user_hash": "abc"}
    asked = {"prompt": "<|im_start|>user\nHi<|im_end|>", "completion": "Hello<|im_end|>", "label": True}
    assert "the shape kto-text" in reason(asked | ours)
    assert "prompt holds the marks of a chat template (<|im_start|>)" in reason(asked)
    assert row(asked, ImportOptions(plain=True)).turns[0].content == asked["prompt"]


def test_a_time_may_be_ahead_by_what_clocks_and_zones_differ() -> None:
    soon = datetime.now(UTC) + timedelta(hours=20)
    assert row(KTO | {"voted_at": soon.isoformat()}).voted_at == soon
    assert "is yet to come" in reason(KTO | {"voted_at": (soon + timedelta(days=1)).isoformat()})


def test_a_label_may_be_a_word_of_the_table_or_of_the_options() -> None:
    chat = {"conversations": [*ASKED, *said("Hello")]}
    up, down = (
        ("true", "True", "Thumbs up", "thumbs_up", "👍🏽", "good", "chosen"),
        ("false", "👎", "Bad", "dislike"),
    )
    for name in ("kto_tag", "label"):
        assert [row(chat | {name: text}).label for text in up + down] == [True] * len(up) + [False] * len(
            down
        )
        for other in ("yes", "", 1, "1", 0, "positive"):
            assert f"{name} must be true (up) or false (down)" in reason(chat | {name: other})
    own = ImportOptions(up_words="1, Ja", down_words="-1,nein")
    labels = [(1, True), ("1", True), (1.0, True), ("ja", True), (-1, False), ("Nein", False), (True, True)]
    assert [row(chat | {"label": value}, own).label for value, _ in labels] == [label for _, label in labels]
    for other in ("good", 0):  # the words of the options replace the table
        assert "label must be true" in reason(chat | {"label": other}, own)
    assert "both name '1'" in reason(chat | {"label": 1}, ImportOptions(up_words="1", down_words="0,1"))


@pytest.mark.parametrize(("change", "expected"), BAD_KTO, ids=[f"{change}"[:40] for change, _ in BAD_KTO])
def test_a_bad_kto_row_is_refused_with_the_column_and_the_value(
    change: dict[str, Any], expected: str
) -> None:
    assert expected in reason(KTO | change)


# Preference pairs

PAIR = {"prompt": "Hi", "chosen": "Good", "rejected": "Bad"}
BOTH = [("ua", "Good", True), ("ua", "Bad", False)]


@pytest.mark.parametrize(
    "pair",
    [
        PAIR,
        {"prompt": ASKED, "chosen": said("Good"), "rejected": said("Bad")},
        {"chosen": [*ASKED, *said("Good")], "rejected": [*ASKED, *said("Bad")]},
        # UltraFeedback: the prompt as text beside whole conversations
        {
            "prompt": "Hi",
            "chosen": [*ASKED, *said("Good")],
            "rejected": [*ASKED, *said("Bad")],
            "chosen-rating": 4.5,
        },
        # LLaMA-Factory
        {
            "conversations": [{"from": "human", "value": "Hi"}],
            "chosen": {"from": "gpt", "value": "Good"},
            "rejected": {"from": "gpt", "value": "Bad"},
        },
    ],
)
def test_a_pair_is_one_thumb_up_and_one_down(pair: dict[str, Any]) -> None:
    assert short(convert(pair)) == BOTH


def test_a_pair_keeps_its_models_and_times() -> None:
    pair = PAIR | {
        "chosen_model": "big",
        "rejected-model": "small",
        "chosen_voted_at": "2024-01-01",
        "chosen_tags": ["a"],
    }
    up, down = convert(pair)
    assert isinstance(up, ImportedRow)
    assert isinstance(down, ImportedRow)
    assert (up.model, down.model) == ("big", "small")
    assert (up.voted_at, up.tags) == (datetime(2024, 1, 1, tzinfo=UTC), ("a",))


def test_capybara_s_own_recipe() -> None:
    chat = {"chosen": [*CHAT, *said("Good")], "rejected": [*CHAT, *said("Bad")]}
    recipe = ImportOptions(min_rating=4, max_messages=4)
    assert short(convert(chat | {"rating_chosen": 4}, recipe)) == [
        ("uaua", "Good", True),
        ("uaua", "Bad", False),
    ]
    assert convert(chat | {"rating_chosen": 3.9}, recipe) == [Dropped("chosen is rated below 4", 2)]
    assert (
        short(convert(chat | {"rating_chosen": "5"}, ImportOptions(max_messages=3)))
        == ["more than 3 messages"] * 2
    )
    strict = ImportOptions(max_rating_rejected=2)
    assert short(convert(PAIR | {"rejected_rating": 2}, strict)) == BOTH
    assert convert(PAIR | {"rejected_rating": 3}, strict) == [Dropped("rejected is rated above 2", 2)]


OTHER_USER = {"role": "user", "content": "Other"}

BAD_PAIRS: list[tuple[dict[str, Any], str]] = [
    ({"prompt": None}, "prompt is missing"),
    ({"chosen": None}, "chosen is missing"),
    ({"rejected": ""}, "rejected is empty"),
    (
        {"rejected": [OTHER_USER, *said("Bad")]},
        "prompt is not a user message of the conversation in rejected",
    ),
    (
        {"prompt": None, "chosen": [{"role": "user", "content": "Hi"}, *said("Good")]}
        | {"rejected": [OTHER_USER, *said("Bad")]},
        "differ before their last message",
    ),
    ({"rating_chosen": None}, "rating_chosen must be a number, not null"),
    ({"rating_chosen": "high"}, "rating_chosen must be a number, not 'high'"),
    ({"rating_chosen": math.nan}, "rating_chosen must be a number, not nan"),
    ({"rating_chosen": True}, "rating_chosen must be a number, not True"),
]


@pytest.mark.parametrize(("change", "expected"), BAD_PAIRS, ids=[text for _, text in BAD_PAIRS])
def test_a_bad_pair_gives_neither_row(change: dict[str, Any], expected: str) -> None:
    assert expected in reason(PAIR | {"rating_chosen": 5} | change, ImportOptions(min_rating=1))


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ({"score_chosen": 7.5, "score_rejected": 7.5}, "chosen and rejected are rated alike"),
        ({"rating_chosen": 3, "rating_rejected": "4"}, "chosen is rated below rejected"),
        ({"rating": [9.0, 9.0]}, "chosen and rejected are rated alike"),
        ({"rating": [8.0, 9.0], "status": "tie"}, "a tie"),
        ({"status": "Tie"}, "a tie"),
        ({"is_tie": True}, "a tie"),
        ({"chosen_reward": 1, "rejected_reward": 2}, "chosen is rated below rejected"),
        (
            {"chosen_score": 9.0, "rating": [9.0, 9.0], "status": "unchanged"},
            "chosen and rejected are rated alike",
        ),
        ({"chosen-rating": 5, "rejected-rating": 4}, "chosen is rated less than 2 above rejected"),
    ],
)
def test_a_pair_without_a_preference_is_dropped(more: dict[str, Any], why: str) -> None:
    assert convert(PAIR | more, ImportOptions(min_margin=2)) == [Dropped(why, 2)]
    if "less than" in why:
        assert short(convert(PAIR | more)) == BOTH


def test_two_columns_of_ratings_that_disagree_are_asked_about() -> None:
    both = PAIR | {"rating_chosen": 5, "rating_rejected": 1, "chosen_score": 0.1, "rejected_score": 0.9}
    assert "differently; say which to leave out: leave_out=chosen_score,rejected_score" in reason(both)
    assert short(convert(both, ImportOptions(leave_out="chosen_score,rejected_score"))) == BOTH
    assert short(convert(both | {"chosen_score": 1.5})) == BOTH


def test_a_rating_with_a_comma_is_named() -> None:
    assert "Write it with a point: 8.5" in reason(PAIR | {"score_chosen": "8,5", "score_rejected": "4"})
    assert short(convert(PAIR | {"score_chosen": "N/A", "score_rejected": 4})) == BOTH


def test_a_margin_needs_two_ratings() -> None:
    assert "rating_rejected must be a number, not null" in reason(
        PAIR | {"rating_chosen": 5}, ImportOptions(min_margin=1)
    )
    assert (
        short(convert(PAIR | {"rating_chosen": 5, "rating_rejected": 4}, ImportOptions(min_margin=1))) == BOTH
    )


def test_a_pair_that_says_the_same_twice_prefers_nothing() -> None:
    assert convert(PAIR | {"rejected": "Good"}) == [Dropped("chosen and rejected are the same", 2)]


# Rated replies


@pytest.mark.parametrize(
    ("score", "expected"),
    [(5, True), ("4.0", True), (Decimal("4.5"), True), (-1, False), (3, "score is between 2 and 4")],
)
def test_scores_become_thumbs(score: Any, expected: Any) -> None:
    found = short(convert({"prompt": "Hi", "response": "Hello", "score": score}))
    assert found == [expected] if isinstance(expected, str) else [("ua", "Hello", expected)]


def test_the_score_column_can_be_named() -> None:
    options = ImportOptions(score_column="helpfulness", up_from=3, down_to=1)
    record = {"messages": [*ASKED, *said("Hello")], "helpfulness": 0, "score": "n/a"}
    assert short(convert(record, options)) == [("ua", "Hello", False)]
    assert sniff({"prompt": "a", "response": "b", "score": 1}, options) is None


def test_a_score_that_a_search_may_have_written_is_asked_about() -> None:
    record = {"id": "r1", "prompt": "Hi", "response": "Hello"}
    for score in (0.83, 2.3145):
        assert "score_column=score" in reason(record | {"score": score})
        named = ImportOptions(score_column="score", up_from=2, down_to=1)
        assert short(convert(record | {"score": score}, named)) == [("ua", "Hello", score > 2)]
    assert short(convert(record | {"score": 4.5})) == [("ua", "Hello", True)]


def test_a_decimal_comma_is_named() -> None:
    said = reason({"prompt": "Hi", "response": "Hello", "score": "4,5"})
    assert "score must be a number, not '4,5'. Write it with a point: 4.5." in said


@pytest.mark.parametrize("score", ["much", None, True, math.inf, "nan", [1]])
def test_a_score_that_is_none_is_refused(score: Any) -> None:
    known = named_format("rated")
    with pytest.raises(InvalidInput, match="score must be a number"):
        list(rows_of(known, {"prompt": "Hi", "response": "Hello", "score": score}, THRESHOLDS))


# ShareGPT, as LLaMA-Factory reads it


@pytest.mark.parametrize(
    ("chat", "tag"), [("conversations", "kto_tag"), ("messages", "label"), ("messages", "kto_tag")]
)
def test_sharegpt(chat: str, tag: str) -> None:
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    if chat == "messages":
        turns = [*ASKED, *said("Hello")]
    assert short(convert({chat: turns, tag: False})) == [("ua", "Hello", False)]
    assert short(convert({chat: turns, tag: True, "system": "Be kind."})) == [("sua", "Hello", True)]
    assert "must be true (up) or false (down), not 'no'" in reason({chat: turns, tag: "no"})
    assert "must end with an assistant" in reason({chat: turns[:1], tag: True})
    tools = [*turns[:1], {"from": "function_call", "value": "{}"}, *turns[1:]]
    assert "each call must name its function" in reason({chat: tools, tag: True})


# All of them


def test_each_format_is_told_from_the_others() -> None:
    for known in FORMATS.values():
        assert known.samples, known.name
        for sample in known.samples:
            found = sniff(sample.options.renamed(sample.record), sample.options)
            assert found is known, f"{known.name}: {sample.title}"
    for record in ({}, {"prompt": "a"}, {"text": "a"}, {"chosen": "a"}, {"conversation": [{"input": "a"}]}):
        assert sniff(record, ImportOptions()) is None


def test_options_that_make_no_sense_are_named() -> None:
    def refused(name: str, **given: Any) -> tuple[str | None, str]:
        with pytest.raises(InvalidInput) as caught:
            check_options(named_format(name), ImportOptions(**given))
        return caught.value.field, caught.value.message

    assert refused("kto", min_rating=4) == (
        "min_rating",
        "min_rating has no meaning for the format kto; leave it out.",
    )
    assert refused("pairs", up_from=4)[0] == "up_from"
    assert refused("rated")[0] == "up_from"
    assert refused("rated", up_from=4)[0] == "down_to"
    assert refused("rated", up_from=2, down_to=2)[0] == "down_to"
    check_options(
        named_format("rated"), ImportOptions(score_column="x", up_from=4, down_to=2, max_messages=3)
    )
    with pytest.raises(InvalidInput, match=r"no import format 'dpo'\. Known formats: openwebui"):
        named_format("dpo")
