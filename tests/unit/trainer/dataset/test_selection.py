"""The data policy: properties of what is chosen, and the store's answer against the plain one."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.examples.example import Example
from storage.settings import Settings
from tests.support.examples import Listed
from trainer.dataset.selection import LEAST_WEIGHT, Choice, age_weight, choose
from trainer.dataset.split import by_chat, hold_out

NOW = datetime(2026, 6, 1, tzinfo=UTC)


def vote(event_id: int, label: bool, person: str = "ada", age: float = 0.0, **changes: Any) -> Example:
    values: dict[str, Any] = {
        "prompt": [{"role": "user", "content": str(event_id)}],
        "completion": [{"role": "assistant", "content": "Yes."}],
        "message_id": f"m{event_id}",
        "chat_id": f"c{event_id}",
        "model_version": "v1",
        "source": "web",
        "origin": "web",
    }
    return Example(
        label=label,
        user_id=person,
        event_id=event_id,
        voted_at=NOW - timedelta(days=age),
        **(values | changes),
    )


@st.composite
def stores(draw: st.DrawFn) -> list[Example]:
    """Votes with gaps between their events; ages that mostly, but not always, fall with the events' ids."""
    rare = draw(st.integers(0, 9))
    examples, event_id = [], 0
    for number in range(draw(st.integers(0, 60))):
        event_id += draw(st.integers(1, 3))
        imported = draw(st.integers(0, 9)) == 0
        origin = "import:kto" if imported else "web"
        label = draw(st.integers(0, 9)) >= rare
        age = max(0.0, 60.0 - number + draw(st.integers(-5, 5)))
        examples.append(
            vote(event_id, label, draw(st.sampled_from("abc")), age, source=origin, origin=origin)
        )
    return examples


def chosen(examples: Sequence[Example], **settings: Any) -> Choice:
    given = Settings(min_votes_per_class=1, **settings)
    found = choose(Listed(examples), given, moment=NOW)
    assert found == choose(Listed(examples), given, moment=NOW), "the same choice every time"
    ids = [example.event_id for example in found.examples]
    assert ids == sorted(set(ids)), "each once, in the order of their events"
    assert len(ids) + sum(found.left_out.values()) == len(examples), "each is chosen or has a reason"
    return found


def by_kind(examples: Sequence[Example]) -> dict[bool, list[int]]:
    return {kind: [e.event_id for e in examples if e.label == kind] for kind in (True, False)}


@given(stores(), st.integers(2, 40))
def test_a_balanced_run_holds_the_newest_of_each_kind_within_its_budget(
    examples: list[Example], budget: int
) -> None:
    found = chosen(examples, data_policy="balanced", row_budget=budget).examples
    assert len(found) == min(budget, len(examples)), "never more, and nothing wasted"
    every, got = by_kind(examples), by_kind(found)
    for kind, ids in got.items():
        assert ids == every[kind][len(every[kind]) - len(ids) :], "the newest of its kind"
        assert len(ids) >= min(len(every[kind]), budget // 2), "a rare kind is there as a whole"


@given(stores(), st.integers(2, 40))
def test_a_budget_reads_little_more_than_it_takes(examples: list[Example], budget: int) -> None:
    feedback = Listed(examples)
    settings = Settings(min_votes_per_class=1, data_policy="balanced", row_budget=budget)
    found = choose(feedback, settings, moment=NOW)
    assert feedback.read <= len(found.examples) + 2


@given(stores(), st.integers(2, 40), st.floats(0, 70))
def test_a_window_holds_the_newest_rows_and_the_last_days(
    examples: list[Example], rows: int, days: float
) -> None:
    newest = chosen(examples, data_policy="window", window_rows=rows).examples
    assert newest == examples[-rows:]
    if days:
        recent = [example for example in examples if example.voted_at >= NOW - timedelta(days=days)]
        assert chosen(examples, data_policy="window", window_days=days).examples == recent
        both = choose(
            Listed(examples),
            Settings(min_votes_per_class=1, data_policy="window", window_days=days, window_rows=rows),
            moment=NOW,
        )
        assert both.examples == recent[-rows:]


@given(stores(), st.integers(2, 30), st.floats(0.05, 0.9), st.integers(0, 3))
def test_replayed_rows_are_a_seeded_share_from_before_the_window(
    examples: list[Example], rows: int, share: float, seed: int
) -> None:
    policy = {"data_policy": "window", "window_rows": rows}
    window = chosen(examples, **policy).examples
    found = chosen(examples, **policy, replay_share=share, seed=seed).examples
    replayed = found[: len(found) - len(window)]
    assert found[len(replayed) :] == window
    assert len(replayed) <= share * len(found) + 1e-9
    wanted = int(len(window) * share / (1 - share))
    older = len(examples) - len(window)
    reachable = 8 * wanted >= (window[0].event_id - 1 if window else 0)
    if reachable:
        assert len(replayed) == min(wanted, older)


def test_another_seed_replays_other_rows() -> None:
    examples = [vote(n, n % 2 == 0) for n in range(1, 101)]
    policy = {"data_policy": "window", "window_rows": 10, "replay_share": 0.5}
    drawn = [chosen(examples, **policy, seed=seed).examples for seed in range(3)]
    assert all(len(found) == 20 for found in drawn)
    assert drawn[0] != drawn[1] != drawn[2]


@given(stores(), st.integers(1, 5), st.sampled_from(["all", "window", "balanced"]))
def test_nobody_gives_more_of_a_kind_than_the_cap(examples: list[Example], cap: int, policy: str) -> None:
    numbers: dict[str, dict[str, Any]] = {
        "all": {},
        "window": {"window_rows": 20, "replay_share": 0.4},
        "balanced": {"row_budget": 16},
    }
    found = chosen(examples, data_policy=policy, max_rows_per_person=cap, **numbers[policy]).examples
    here = [example for example in found if example.origin == "web"]
    given = Counter((example.user_id, example.label) for example in here)
    assert all(count <= cap for count in given.values())
    if policy == "all":
        everybody = Counter((e.user_id, e.label) for e in examples if e.origin == "web")
        assert given == {key: min(count, cap) for key, count in everybody.items()}
        assert [e for e in found if e.origin != "web"] == [e for e in examples if e.origin != "web"]
        for key in given:
            mine = [e.event_id for e in examples if (e.user_id, e.label) == key and e.origin == "web"]
            assert [e.event_id for e in here if (e.user_id, e.label) == key] == mine[-cap:]


@given(stores())
def test_all_takes_all(examples: list[Example]) -> None:
    found = chosen(examples)
    assert found.examples == examples
    assert not found.left_out


def test_a_chat_stays_held_out_as_the_budget_moves_on() -> None:
    examples = [vote(n, n % 3 == 0) for n in range(1, 401)]

    def held(upto: int) -> tuple[set[str], set[str]]:
        found = chosen(examples[:upto], data_policy="balanced", row_budget=100).examples
        held_out = hold_out(by_chat(found), fraction=0.2, seed=0)
        return held_out, {example.chat_id for example in found} - held_out

    (before, trained), (after, trained_after) = held(300), held(350)
    assert before & after, "some chats are in both"
    assert not before & trained_after
    assert not after & trained
    assert len(after) <= 40


def test_what_is_left_out_is_counted_by_reason() -> None:
    examples = [vote(n, n > 4, "eve" if n > 8 else "ada", age=20 - n) for n in range(1, 13)]
    found = chosen(examples, data_policy="balanced", row_budget=4, max_rows_per_person=1)
    assert [example.event_id for example in found.examples] == [4, 8, 12]
    # Of 9 to 11 from eve and 1 to 3 and 5 to 7 from ada, each looked at before the next person was found.
    assert found.left_out == {"more than 1 of a kind from one person": 9}
    found = chosen(examples, data_policy="balanced", row_budget=4)
    assert found.left_out == {"beyond the row budget of 4": 8}
    found = chosen(examples, data_policy="window", window_days=9.5)
    assert found.left_out == {"outside the window": 10}


@given(st.floats(0, 4000), st.floats(0.1, 100))
def test_age_halves_the_weight_of_what_the_deployed_version_did_not_write(
    age: float, half_life: float
) -> None:
    settings = Settings(half_life_days=half_life)

    def weight(**changes: Any) -> float:
        return age_weight(vote(1, True, age=age, **changes), settings, moment=NOW, on_policy="v3")

    assert weight(model_version="v3") == 1.0
    for other in ("v2", None):
        days = (NOW - vote(1, True, age=age).voted_at) / timedelta(days=1)
        expected = max(LEAST_WEIGHT, 0.5 ** (days / half_life))
        assert weight(model_version=other) == pytest.approx(expected)
    assert weight(model_version="v2") > 0
    assert age_weight(vote(1, True, age=age), Settings(), moment=NOW, on_policy="v3") == 1.0


def test_a_vote_from_after_the_run_was_asked_for_has_its_whole_weight() -> None:
    settings = Settings(half_life_days=1)
    assert age_weight(vote(1, True, age=-5), settings, moment=NOW, on_policy="v3") == 1.0
