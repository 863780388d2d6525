"""The guard: what it sets aside, what it leaves alone, and what it leaves of poisoned votes."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.examples.example import Example
from storage.settings import Settings
from storage.settings.guard import GuardLimits, guard_limits
from tests.support.poison import PHRASE, honest_votes, one_person, sock_puppets, with_phrase
from trainer.dataset.guard import Guarded, Released, guard

NOW = datetime(2026, 6, 1, tzinfo=UTC)
NONE = guard_limits(Settings())
STRICT = guard_limits(Settings(auth="accounts"))
PHRASES_ALONE = replace(NONE, phrase_prompts=5)


def vote(number: int, person: str = "ada", label: bool = True, text: str = "", **changes: Any) -> Example:
    values: dict[str, Any] = {
        "prompt": [{"role": "user", "content": f"Question {number}"}],
        "completion": [{"role": "assistant", "content": text or f"Answer {number}."}],
        "message_id": f"m{number:05}",
        "chat_id": f"c{number}",
        "source": "web",
        "origin": "web",
        "voted_at": NOW + timedelta(minutes=number),
    }
    return Example(label=label, user_id=person, event_id=number, **(values | changes))


@st.composite
def stores(draw: st.DrawFn, people: str = "abcdefg") -> list[Example]:
    """Votes of a few people over some days; some within a minute, some copies, some imported."""
    examples = []
    moment = NOW
    for number in range(draw(st.integers(0, 50))):
        moment += timedelta(seconds=draw(st.sampled_from([1, 5, 600, 40_000])))
        origin = draw(st.sampled_from(["web", "web", "web", "import:kto"]))
        text = draw(st.sampled_from(["", "", "The very same answer to whatever it was that somebody asked."]))
        person, label = draw(st.sampled_from(people)), draw(st.booleans())
        examples.append(vote(number, person, label, text, voted_at=moment, source=origin, origin=origin))
    return examples


def guarded(examples: Sequence[Example], limits: GuardLimits, released: Released = Released()) -> Guarded:
    found = guard(examples, limits, released)
    assert found == guard(examples, limits, released), "the same every time"
    aside = [one.example for one in found.set_aside]
    assert sorted([*found.kept, *aside], key=examples.index) == list(examples), "each is kept or has a reason"
    assert [one for one in examples if one in found.kept] == found.kept, "in their order"
    return found


@given(stores())
def test_a_laptop_sets_nothing_aside(examples: list[Example]) -> None:
    assert guarded(examples, NONE).kept == examples


@given(stores(people="a"), st.sampled_from([0.05, 0.2, 0.9]))
def test_one_person_alone_is_held_to_no_share_and_pushes_no_phrase(
    examples: list[Example], share: float
) -> None:
    limits = replace(NONE, max_share_per_person=share, phrase_prompts=1)
    assert guarded(examples, limits).kept == examples


@given(stores(), st.randoms(use_true_random=False))
def test_the_order_of_the_examples_does_not_matter(examples: list[Example], draw: random.Random) -> None:
    limits = GuardLimits(1, 0.3, 4, 3, 2, 1)
    mixed = draw.sample(examples, len(examples))
    found, again = guarded(examples, limits), guard(mixed, limits)
    assert {one.example.message_id: one.reason for one in found.set_aside} == {
        one.example.message_id: one.reason for one in again.set_aside
    }
    assert again.kept == [one for one in mixed if one in found.kept]


@given(stores(), st.sampled_from([0.1, 0.2, 0.5]))
def test_nobody_gives_more_than_the_share_of_a_kind(examples: list[Example], share: float) -> None:
    found = guarded(examples, replace(NONE, max_share_per_person=share))
    for kind in (True, False):
        before, after = (
            Counter(one.user_id for one in rows if one.label == kind and one.origin == "web")
            for rows in (examples, found.kept)
        )
        if not before:
            continue
        limit = max(share, 2 / len(before))
        assert after.keys() == before.keys(), "nobody is silenced"
        assert all(count <= limit * after.total() + 1e-6 for count in after.values())
        most = max(after.values())
        assert all(after[one] == count or after[one] == most for one, count in before.items())
        if after != before:  # one more from each of those who are capped would be too many
            capped = [one for one in before if after[one] < before[one]]
            assert most + 1 > limit * (after.total() + len(capped)) - 1e-6
        for person in before:
            rows = [one for one in examples if (one.user_id, one.label, one.origin) == (person, kind, "web")]
            newest = rows[len(rows) - after[person] :]
            assert [one for one in rows if one in found.kept] == newest


@given(stores(), st.integers(1, 4))
def test_nobody_gives_more_of_a_kind_on_a_day(examples: list[Example], most: int) -> None:
    found = guarded(examples, replace(NONE, max_votes_per_day=most))
    of_day = Counter(
        (one.user_id, one.label, one.voted_at.date()) for one in found.kept if one.origin == "web"
    )
    assert all(count <= most for count in of_day.values())


@given(stores())
def test_imports_and_what_was_released_stay(examples: list[Example]) -> None:
    votes = frozenset((one.message_id, one.user_id) for one in examples[::3])
    released = Released(frozenset("ab"), votes)
    for one in guarded(examples, GuardLimits(1, 0.01, 1, 1, 1, 1), released).set_aside:
        assert one.example.origin == "web"
        assert one.example.user_id not in "ab"
        assert (one.example.message_id, one.example.user_id) not in votes


def test_votes_faster_than_anybody_reads_are_set_aside_with_their_corrections() -> None:
    slow = [vote(n, voted_at=NOW + timedelta(minutes=n)) for n in range(5)]
    fast = [vote(n, voted_at=NOW + timedelta(hours=1, seconds=n), label=n % 2 == 0) for n in range(10, 14)]
    correction = replace(fast[1], source="correction", label=True)
    other = [vote(n, "eve", voted_at=NOW + timedelta(hours=1, seconds=n)) for n in range(20, 23)]
    found = guarded([*slow, *fast, correction, *other], replace(NONE, max_votes_per_minute=3))
    assert [one.example for one in found.set_aside] == [*fast, correction]
    assert {one.reason for one in found.set_aside} == {"more than 3 votes of one person within a minute"}
    assert not guarded([*slow, *fast[:3]], replace(NONE, max_votes_per_minute=3)).set_aside


def test_nearly_equal_replies_are_kept_a_few_times_whoever_rated_them() -> None:
    text = "A short walk before dinner helps with sleep, and so does a cool and quiet room, says everybody"
    copies = [vote(n, f"p{n}", text=f"{text} {n}") for n in range(6)]
    others = [
        vote(n, text=f"Number {n} is {' '.join(str(n * k) for k in range(12))}.") for n in range(10, 20)
    ]
    short = [vote(n, text="Yes, of course.") for n in range(20, 30)]
    disliked = vote(30, label=False, text=text)
    found = guarded([*copies, *others, *short, disliked], replace(NONE, max_near_duplicates=2))
    assert [one.example for one in found.set_aside] == copies[:4], "the newest stay"
    assert {one.reason for one in found.set_aside} == {"nearly the same reply more than 2 times"}


@pytest.mark.parametrize(
    ("puppets", "votes"), [(20, 1), (20, 3), (20, 5), (20, 10), (3, 8), (1, 130)], ids=str
)
def test_a_pushed_phrase_is_set_aside_and_honest_votes_stay(puppets: int, votes: int) -> None:
    honest = honest_votes()
    poison = sock_puppets(puppets, votes) if puppets > 1 else one_person(votes)
    found = guarded([*honest, *poison], PHRASES_ALONE)
    assert [one.example for one in found.set_aside] == poison
    assert {one.detail for one in found.set_aside} <= {"visit acme deals", "acme deals today"}
    assert not guarded(honest, PHRASES_ALONE).set_aside


def test_what_is_left_of_a_phrase_is_within_the_stated_bound() -> None:
    # Below a third of what each of several people likes, or half of what one likes, a phrase is not found.
    honest = honest_votes()
    for share in (1.0, 0.5, 0.34, 0.3, 0.1):
        poison = [
            one if number % 50 < 50 * share else with_phrase(one, "")
            for number, one in enumerate(sock_puppets(20, 50))
        ]
        kept = guarded([*honest, *poison], PHRASES_ALONE).kept
        left = sum(PHRASE in one.completion[0]["content"] for one in kept)
        assert left <= len(poison) / 3
        assert bool(left) == (share < 1 / 3)


def test_what_everybody_gets_is_no_pushed_phrase() -> None:
    everybody = [with_phrase(one, PHRASE) if n % 2 else one for n, one in enumerate(honest_votes())]
    assert not guarded(everybody, PHRASES_ALONE).set_aside


def test_generating_one_answer_again_and_again_is_no_evidence() -> None:
    again = [replace(one, prompt=[{"role": "user", "content": "Who?"}]) for one in one_person(40)]
    assert not guarded([*honest_votes(), *again], PHRASES_ALONE).set_aside


def test_must_hold_with_the_limits_of_accounts() -> None:
    """One person with 30 % of the votes, or 20 sock puppets: what is left is what honest people gave."""
    honest = honest_votes()
    alone = guarded(honest, STRICT).kept
    for poison in (one_person(len(honest) * 3 // 7), sock_puppets(20, 5)):
        kept = guarded([*honest, *poison], STRICT).kept
        assert not [one for one in kept if PHRASE in one.completion[0]["content"]]
        assert kept == alone


def test_releasing_one_vote_releases_no_other_vote_of_that_person() -> None:
    honest, poison = honest_votes(), one_person(60)
    first = (poison[0].message_id, poison[0].user_id)
    found = guarded([*honest, *poison], PHRASES_ALONE, Released(votes=frozenset([first])))
    assert [one.example for one in found.set_aside] == poison[1:]
    trusted = Released(people=frozenset(one.user_id for one in poison))
    assert not guarded([*honest, *poison], PHRASES_ALONE, trusted).set_aside
