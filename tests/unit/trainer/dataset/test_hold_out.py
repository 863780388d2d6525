"""Properties of the hold-out, for any votes that people may cast."""

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.dataset.split import hold_out

seeds = st.integers(0, 2**32)
votes = st.tuples(st.integers(0, 4), st.integers(0, 4)).filter(any)
groups = st.dictionaries(st.text(max_size=8), votes, max_size=60)
fractions = st.floats(0.01, 0.99)


def counts(groups: dict[str, tuple[int, int]], chats: set[str]) -> tuple[int, int]:
    return sum(groups[chat][0] for chat in chats), sum(groups[chat][1] for chat in chats)


@given(groups, fractions, seeds)
def test_at_most_half_of_either_kind_is_held_out(
    groups: dict[str, tuple[int, int]], fraction: float, seed: int
) -> None:
    held = hold_out(groups, fraction=fraction, seed=seed)
    assert held <= set(groups)
    for kept, total in zip(counts(groups, held), counts(groups, set(groups)), strict=True):
        assert 2 * kept <= total


@given(groups, fractions, seeds)
def test_the_order_of_the_chats_does_not_matter(
    groups: dict[str, tuple[int, int]], fraction: float, seed: int
) -> None:
    backwards = dict(reversed(list(groups.items())))
    assert hold_out(groups, fraction=fraction, seed=seed) == hold_out(backwards, fraction=fraction, seed=seed)


@given(st.integers(2, 200), st.integers(2, 200), seeds)
def test_both_kinds_are_held_out_where_chats_have_one_vote(ups: int, downs: int, seed: int) -> None:
    groups = {f"up {n}": (1, 0) for n in range(ups)} | {f"down {n}": (0, 1) for n in range(downs)}
    kept_up, kept_down = counts(groups, hold_out(groups, fraction=0.2, seed=seed))
    assert kept_up >= 1
    assert kept_down >= 1


@given(seeds)
def test_two_dozen_votes_give_the_gate_enough(seed: int) -> None:
    groups = {f"chat {n}": (n % 2, 1 - n % 2) for n in range(24)}
    kept_up, kept_down = counts(groups, hold_out(groups, fraction=0.2, seed=seed))
    assert 2 <= kept_up <= 6
    assert 2 <= kept_down <= 6


@given(seeds)
def test_a_rare_kind_gives_the_gate_the_two_it_needs(seed: int) -> None:
    groups = {f"chat {n}": (int(n >= 4), int(n < 4)) for n in range(24)}
    _, kept_down = counts(groups, hold_out(groups, fraction=0.2, seed=seed))
    assert kept_down == 2


def test_two_dozen_votes_lose_about_a_fifth() -> None:
    groups = {f"chat {n}": (n % 2, 1 - n % 2) for n in range(24)}
    sizes = [len(hold_out(groups, fraction=0.2, seed=seed)) for seed in range(500)]
    assert 4.8 <= sum(sizes) / len(sizes) <= 6


@given(seeds, st.integers(100, 300), st.integers(1, 300))
def test_a_chat_stays_on_its_side_as_chats_are_added(seed: int, before: int, added: int) -> None:
    def chats(number: int) -> dict[str, tuple[int, int]]:
        return {f"chat {n}": (1, 1) for n in range(number)}

    first = hold_out(chats(before), fraction=0.2, seed=seed)
    assume(len(first) >= 4)  # below that, chats are added, and may go back
    later = hold_out(chats(before + added), fraction=0.2, seed=seed)
    assert first == {chat for chat in later if chat in chats(before)}


def test_a_large_hold_out_is_near_the_fraction() -> None:
    groups = {f"chat {n}": (n % 2, 1 - n % 2) for n in range(5000)}
    assert len(hold_out(groups, fraction=0.2, seed=0)) == pytest.approx(1000, abs=100)


def test_another_seed_holds_out_other_chats() -> None:
    groups = {f"chat {n}": (1, 1) for n in range(100)}
    assert hold_out(groups, fraction=0.2, seed=0) != hold_out(groups, fraction=0.2, seed=1)


@pytest.mark.parametrize(
    "groups",
    [
        {},
        {"only": (5, 5)},
        {"a": (1, 0), "b": (0, 1)},  # the last chat with a kind of vote is trained on
        {"a": (3, 3), "b": (1, 1)},
    ],
)
def test_the_hold_out_may_have_to_be_small(groups: dict[str, tuple[int, int]]) -> None:
    for seed in range(20):
        held = hold_out(groups, fraction=0.5, seed=seed)
        assert held <= {"b"} if len(groups) == 2 and (3, 3) in groups.values() else not held
