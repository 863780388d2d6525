"""Computations in parallel give what they give one after the other, gradients too."""

import threading
from collections.abc import Callable

import pytest
import torch

from trainer.engine.fast.parallel import ParallelGraphs

THREADS = [1, 2, 3]


@pytest.fixture
def weight() -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.randn(8, 8, generator=torch.Generator().manual_seed(0)))


def chain(weight: torch.nn.Parameter, length: int) -> Callable[[], torch.Tensor]:
    def piece() -> torch.Tensor:
        state = torch.full((8,), float(length))
        for _ in range(length):
            state = torch.tanh(weight @ state)
        return torch.stack([state.sum(), (state**2).sum()])

    return piece


@pytest.mark.parametrize("threads", THREADS)
def test_values_and_gradients_are_those_of_one_graph(weight: torch.nn.Parameter, threads: int) -> None:
    lengths = [3, 40, 1, 17, 8]
    pieces = [chain(weight, length) for length in lengths]
    sum(piece()[0] * (number + 1) for number, piece in enumerate(pieces)).backward()  # type: ignore[union-attr]
    expected, weight.grad = weight.grad, None

    found = ParallelGraphs(threads).run(pieces, lengths, [weight])
    for one, piece in zip(found, pieces, strict=True):
        torch.testing.assert_close(one, piece())
    sum(one[0] * (number + 1) for number, one in enumerate(found)).backward()  # type: ignore[union-attr]
    torch.testing.assert_close(weight.grad, expected)


def test_the_sum_is_the_same_to_the_last_bit_on_any_number_of_threads(weight: torch.nn.Parameter) -> None:
    lengths = list(range(1, 30))
    gradients = []
    for threads in THREADS:
        weight.grad = None
        found = ParallelGraphs(threads).run([chain(weight, length) for length in lengths], lengths, [weight])
        torch.stack(found).sum().backward()  # type: ignore[no-untyped-call]
        gradients.append(weight.grad)
    assert all(torch.equal(gradients[0], other) for other in gradients[1:])


def test_pieces_run_at_the_same_time_and_those_that_cost_most_begin(weight: torch.nn.Parameter) -> None:
    both = threading.Barrier(2, timeout=60)
    begun: list[int] = []

    def piece(number: int) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            begun.append(number)
            both.wait()
            return weight.sum()

        return run

    ParallelGraphs(2).run([piece(number) for number in range(4)], [1, 2, 30, 40], [weight])
    assert set(begun[:2]) == {2, 3}


@pytest.mark.parametrize("threads", THREADS)
def test_without_gradients_there_is_no_graph(weight: torch.nn.Parameter, threads: int) -> None:
    with torch.no_grad():
        found = ParallelGraphs(threads).run([chain(weight, 2), chain(weight, 3)], [2, 3], [weight])
    assert not any(one.requires_grad for one in found)


@pytest.mark.parametrize("threads", THREADS)
def test_what_fails_is_raised_and_the_threads_are_gone(weight: torch.nn.Parameter, threads: int) -> None:
    def fails() -> torch.Tensor:
        raise MemoryError("too much")

    cores = torch.get_num_threads()
    with pytest.raises(MemoryError, match="too much"):
        ParallelGraphs(threads).run([chain(weight, 2), fails, chain(weight, 3)], [1, 1, 1], [weight])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("graph")]
    assert torch.get_num_threads() == cores


def test_a_piece_without_gradient_leaves_the_others_theirs(weight: torch.nn.Parameter) -> None:
    found = ParallelGraphs(2).run([lambda: torch.ones(2), chain(weight, 2)], [1, 1], [weight])
    (found[0].sum() + found[1].sum()).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None
    assert weight.grad.abs().sum() > 0


@pytest.mark.parametrize("threads", THREADS)
def test_what_is_for_later_is_done_when_the_results_are_there(
    weight: torch.nn.Parameter, threads: int
) -> None:
    parallel = ParallelGraphs(threads)
    order: list[str] = []

    def piece(number: int) -> Callable[[], torch.Tensor]:
        def run() -> torch.Tensor:
            parallel.later(lambda: order.append(f"later {number}"))
            order.append(f"piece {number}")
            return weight.sum()

        return run

    for _ in range(2):  # the second time nothing is left of the first
        order.clear()
        parallel.run([piece(number) for number in range(5)], [1, 1, 1, 1, 1], [weight])
        assert sorted(order) == sorted(
            [f"{kind} {number}" for kind in ("piece", "later") for number in range(5)]
        )
    if threads == 2:
        firsts = [order.index(f"piece {number}") for number in range(5)]
        assert order.index("later 4") > max(firsts), "pieces that wait for a thread come first"


@pytest.mark.parametrize("threads", THREADS)
def test_what_fails_later_is_raised(weight: torch.nn.Parameter, threads: int) -> None:
    parallel = ParallelGraphs(threads)

    def fails() -> None:
        raise MemoryError("too much, later")

    def piece() -> torch.Tensor:
        parallel.later(fails)
        return weight.sum()

    with pytest.raises(MemoryError, match="too much, later"):
        parallel.run([piece, chain(weight, 2)], [1, 1], [weight])
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("graph")]
    assert len(parallel.run([chain(weight, 2), chain(weight, 3)], [1, 1], [weight])) == 2
