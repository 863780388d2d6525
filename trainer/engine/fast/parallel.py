"""Runs independent computations in parallel on CPU threads, each with its own autograd graph.

The layers of a small model are too small to split: two threads on one matrix product wait for each other
longer than they multiply. Two threads with a chat each do not wait.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from threading import Event
from typing import Any

import torch
from torch import Tensor

Piece = Callable[[], Tensor]


class ParallelGraphs:
    """Runs pieces on up to `threads` threads, which share the cores that PyTorch has now."""

    def __init__(self, threads: int) -> None:
        self.threads = max(threads, 1)
        self.cores = torch.get_num_threads()
        self._pool: ThreadPoolExecutor | None = None
        self._submitted = Event()
        self._later: list[Future[None]] = []

    def run(
        self, pieces: Sequence[Piece], costs: Sequence[float], parameters: Sequence[torch.nn.Parameter]
    ) -> list[Tensor]:
        """The results of the pieces, in their order. Pieces with the highest costs start first.

        If gradients are enabled, they flow to `parameters` and to nothing else that a piece closes over. They
        are summed in a fixed order, so the same pieces give the same sum on any number of threads. Raises the
        exception of the first piece that fails, after the running pieces have ended.
        """
        order = sorted(range(len(pieces)), key=lambda number: -costs[number])
        sorted_pieces = [pieces[number] for number in order]
        if torch.is_grad_enabled():
            found: Sequence[Tensor] = _Pieces.apply(self, sorted_pieces, *parameters)  # type: ignore[no-untyped-call]
        else:
            found = list(self.each([torch.no_grad()(piece) for piece in sorted_pieces]))
        results: list[Any] = [None] * len(pieces)
        for number, result in zip(order, found, strict=True):
            results[number] = result
        return results

    def later(self, task: Callable[[], None]) -> None:
        """Schedule a task from within a piece. It runs after the waiting pieces, before `run` returns.

        Small tasks use the time when a thread would otherwise wait for another's last piece.
        """
        if self._pool is None:
            task()
        else:
            self._later.append(self._pool.submit(task))

    def each(self, tasks: Sequence[Callable[[], Any]]) -> Iterator[Any]:
        """Yield the results of the tasks in their order, each as soon as it is available."""
        threads = min(self.threads, len(tasks))
        if threads < 2:
            yield from (task() for task in tasks)
            return
        # A new pool each time: a thread that failed keeps the part of the graph autograd had not processed.
        with ThreadPoolExecutor(threads, "graph", initializer=self._begin, initargs=(threads,)) as pool:
            self._pool = pool
            self._submitted.clear()
            try:
                futures = [pool.submit(task) for task in tasks]
            finally:
                self._submitted.set()
            try:
                yield from _results(futures)
                for late in self._later:
                    late.result()
            finally:
                for future in [*futures, *self._later]:
                    future.cancel()
                self._pool, self._later = None, []
                torch.set_num_threads(self.cores)  # the default for later threads; this thread keeps its own

    def _begin(self, threads: int) -> None:
        torch.set_num_threads(max(self.cores // threads, 1))
        self._submitted.wait()  # wait, so that `later` tasks queue behind all pieces


def _results(futures: list[Future[Any]]) -> Iterator[Any]:
    futures.reverse()
    while futures:
        yield futures.pop().result()  # keep no reference to the result


class _Pieces(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, parallel: ParallelGraphs, pieces: Sequence[Piece], *parameters: torch.nn.Parameter
    ) -> tuple[Tensor, ...]:
        ctx.parallel, ctx.parameters = parallel, parameters
        ctx.results = list(parallel.each([torch.enable_grad()(piece) for piece in pieces]))
        return tuple(result.detach() for result in ctx.results)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        tasks = [
            partial(_gradients, result, gradient, ctx.parameters)
            for result, gradient in zip(ctx.results, gradients, strict=True)
            if result.requires_grad
        ]
        ctx.results = None  # each task holds its own graph and frees it when done
        return None, None, *_sum(ctx.parallel.each(tasks), len(ctx.parameters))


def _gradients(
    result: Tensor, gradient: Tensor, parameters: Sequence[torch.nn.Parameter]
) -> tuple[Tensor | None, ...]:
    return torch.autograd.grad(result, parameters, gradient, allow_unused=True)


def _sum(parts: Iterable[tuple[Tensor | None, ...]], length: int) -> list[Tensor | None]:
    total: list[Tensor | None] = [None] * length
    for part in parts:
        for number, gradient in enumerate(part):
            if gradient is not None:
                before = total[number]
                total[number] = gradient if before is None else before.add_(gradient)
    return total
