"""Properties of the order of rows, for any votes that people may cast."""

import random
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from itertools import permutations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from trainer.dataset.batch_order import blocks


@dataclass(frozen=True)
class Row:
    label: bool
    chat_id: str
    length: int = 1


def rows_of(chats: str, *, max_size: int) -> st.SearchStrategy[list[Row]]:
    row = st.builds(Row, st.booleans(), st.sampled_from(chats), st.integers(1, 1024))
    return st.lists(row, min_size=2, max_size=max_size)


seeds = st.integers(0, 2**32)
rows = rows_of("abcdefghijkl", max_size=60)
batch_sizes = st.integers(2, 9)


def order(examples: list[Row], **how: int) -> list[int]:
    return [row for block in blocks(examples, **how) for row in block]


def blocks_of(examples: list[Row], indices: list[int], size: int) -> list[list[Row]]:
    return [[examples[i] for i in indices[start : start + size]] for start in range(0, len(indices), size)]


def arranged(examples: list[Row], *, size: int, seed: int = 0) -> list[list[Row]]:
    return [[examples[row] for row in block] for block in blocks(examples, batch_size=size, seed=seed)]


def neighbours_of_one_chat(blocks: list[list[Row]]) -> int:
    return sum(row.chat_id == block[seat - 1].chat_id for block in blocks for seat, row in enumerate(block))


def has_class_mix(examples: list[Row], blocks: list[list[Row]]) -> bool:
    """The rarer label is in every block, or alone in as many blocks as it has rows."""
    ups = sum(row.label for row in examples)
    rare = 2 * ups <= len(examples)
    with_rare = sum(any(row.label == rare for row in block) for block in blocks)
    return with_rare >= min(ups, len(examples) - ups, len(blocks))


# The order


@given(rows, batch_sizes, seeds)
def test_every_row_comes_once_and_one_twice_if_it_would_be_alone(
    examples: list[Row], size: int, seed: int
) -> None:
    indices = order(examples, batch_size=size, seed=seed)
    times = Counter(indices)
    assert set(times) == set(range(len(examples)))
    assert len(indices) - len(examples) == (1 if len(examples) % size == 1 else 0)
    assert len(indices) % size != 1


@given(rows, batch_sizes, seeds)
def test_the_rarer_label_is_in_every_block_where_counts_allow(
    examples: list[Row], size: int, seed: int
) -> None:
    assert has_class_mix(examples, arranged(examples, size=size, seed=seed))


@given(st.lists(st.booleans(), min_size=2, max_size=60), batch_sizes, seeds)
def test_the_rarer_label_is_spread_evenly(labels: list[bool], size: int, seed: int) -> None:
    examples = [Row(label, str(number)) for number, label in enumerate(labels)]
    blocks = arranged(examples, size=size, seed=seed)
    ups = [sum(row.label for row in block) for block in blocks if len(block) == size]
    assert max(ups, default=0) - min(ups, default=0) <= 1


@given(rows_of("abcd", max_size=7), st.integers(2, 4), seeds)
def test_rows_of_one_chat_are_neighbours_only_where_it_cannot_be_avoided(
    examples: list[Row], size: int, seed: int
) -> None:
    indices = order(examples, batch_size=size, seed=seed)
    if neighbours_of_one_chat(blocks_of(examples, indices, size)):
        for other in permutations(indices):
            blocks = blocks_of(examples, list(other), size)
            assert neighbours_of_one_chat(blocks) or not has_class_mix(examples, blocks)


@given(st.lists(st.integers(0, 39), min_size=40, max_size=200), st.integers(3, 8), seeds)
def test_many_chats_are_always_kept_apart(chats: list[int], size: int, seed: int) -> None:
    assume(max(Counter(chats).values()) <= len(chats) // (2 * size))
    examples = [Row(number % 5 == 0, str(chat)) for number, chat in enumerate(chats)]
    blocks = arranged(examples, size=size, seed=seed)
    assert neighbours_of_one_chat(blocks) == 0


@given(rows_of("abc", max_size=30), batch_sizes, seeds)
def test_no_row_is_its_own_neighbour(examples: list[Row], size: int, seed: int) -> None:
    for block in blocks(examples, batch_size=size, seed=seed):
        assert all(row != block[seat - 1] for seat, row in enumerate(block))


@given(rows, batch_sizes, seeds)
def test_the_order_is_repeatable(examples: list[Row], size: int, seed: int) -> None:
    assert order(examples, batch_size=size, seed=seed) == order(examples, batch_size=size, seed=seed)


def test_the_order_is_the_same_in_another_process() -> None:
    examples = [Row(number % 3 == 0, f"chat {number % 11}") for number in range(50)]
    program = (
        "from types import SimpleNamespace as Row; from trainer.dataset.batch_order import blocks\n"
        "rows = [Row(label=n % 3 == 0, chat_id=f'chat {n % 11}', length=1) for n in range(50)]\n"
        "print(blocks(rows, batch_size=4, seed=7, epoch=2))"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == str(blocks(examples, batch_size=4, seed=7, epoch=2))


def test_epochs_and_seeds_shuffle_anew() -> None:
    examples = [Row(number % 2 == 0, str(number)) for number in range(40)]
    orders = [
        order(examples, batch_size=4, seed=seed, epoch=epoch)
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (1, 1))
    ]
    assert len({tuple(indices) for indices in orders}) == 4
    assert list(range(40)) not in orders


def test_the_smallest_sets() -> None:
    two = [Row(True, "a"), Row(False, "b")]
    assert order([], batch_size=4, seed=0) == []
    assert order(two[:1], batch_size=4, seed=0) == []
    assert sorted(order(two, batch_size=4, seed=0)) == [0, 1]


def test_one_dominant_chat_is_spread_as_far_as_it_goes() -> None:
    """No pair of neighbours more than the counts demand, and quickly, though 600 rows must stay crowded."""
    examples = [Row(number % 4 == 0, "big" if number < 700 else str(number)) for number in range(1000)]
    blocks = arranged(examples, size=4)
    # A ring of four with two or more rows of "big" has at least 2·big − 4 such pairs.
    assert neighbours_of_one_chat(blocks) == 2 * 700 - 1000


@given(rows_of("abcdefghijklmnopqrst", max_size=60), batch_sizes, seeds)
def test_a_short_last_block_and_its_row_that_comes_twice_are_still_whole(
    examples: list[Row], size: int, seed: int
) -> None:
    blocks = arranged(examples, size=size, seed=seed)
    assert all(len(block) == size for block in blocks[:-1])


def test_rows_of_one_chat_meet_in_a_block_the_longest_together() -> None:
    """Chats of four rated turns, in blocks of four: each chat's rows are in two blocks and not in four."""
    examples = [Row(chat % 5 != turn, str(chat), length=turn) for chat in range(40) for turn in range(4)]
    blocks = arranged(examples, size=4)
    assert neighbours_of_one_chat(blocks) == 0
    assert has_class_mix(examples, blocks)
    together = [
        sorted(row.length for row in block if row.chat_id == chat)
        for block in blocks
        for chat in {row.chat_id for row in block}
    ]
    assert sum(len(lengths) == 2 for lengths in together) >= 0.9 * len(examples) / 2
    assert together.count([2, 3]) >= 0.7 * 40


def padding(blocks: list[list[Row]]) -> float:
    """What padding each block to its longest row adds, as a share of the tokens."""
    tokens = sum(row.length for block in blocks for row in block)
    return sum(len(block) * max(row.length for row in block) for block in blocks) / tokens - 1


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize("seed", range(5))
def test_rows_of_like_length_meet(size: int, seed: int) -> None:
    draw = random.Random(seed)
    lengths = [round(min(1024, draw.lognormvariate(5, 1))) + 1 for _ in range(400)]
    examples = [Row(number % 7 == 0, str(number), length) for number, length in enumerate(lengths)]
    blind = [Row(row.label, row.chat_id) for row in examples]
    alike = arranged(examples, size=size, seed=seed)
    assert padding(alike) < 0.5 * padding(blocks_of(examples, order(blind, batch_size=size, seed=seed), size))
    totals = [sum(row.length for row in block) for block in alike]
    assert totals != sorted(totals), "the blocks themselves come in any order"


@pytest.mark.parametrize("rows", [24, 100, 400])
def test_an_epoch_brings_other_rows_together_than_the_one_before(rows: int) -> None:
    examples = [Row(number % 5 == 0, str(number), length=number) for number in range(rows)]
    met = [
        {
            (row, block[seat - 1])
            for block in blocks(examples, batch_size=4, seed=0, epoch=epoch)
            for seat, row in enumerate(block)
        }
        for epoch in range(2)
    ]
    assert len(met[0] & met[1]) < 0.25 * rows
