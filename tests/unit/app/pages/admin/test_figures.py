"""Figures that take long are computed in the background; quick ones for each reader."""

import threading

import pytest

from app.pages.admin.figures import Remembered


def wait_for_the_background() -> None:
    for thread in threading.enumerate():
        if thread.name == "admin-figures":
            thread.join(timeout=60)


def test_quick_figures_are_those_of_now() -> None:
    counted = iter(range(10))
    remembered = Remembered(lambda: next(counted))
    assert [remembered.get() for _ in range(3)] == [0, 1, 2]


def test_slow_figures_are_the_last_ones_and_computed_one_at_a_time() -> None:
    begun, go_on = threading.Semaphore(0), threading.Semaphore(1)
    numbers = iter(range(10))

    def compute() -> int:
        begun.release()
        assert go_on.acquire(timeout=60)
        return next(numbers)

    remembered = Remembered(compute, long=-1, patience=0)
    remembered.renew_soon()
    assert begun.acquire(timeout=60)
    wait_for_the_background()
    assert [remembered.get() for _ in range(5)] == [0] * 5  # nobody waits
    assert begun.acquire(timeout=60)
    assert not begun.acquire(blocking=False)  # one computation for all of them
    go_on.release()
    wait_for_the_background()
    assert remembered.get() == 1
    go_on.release()
    wait_for_the_background()


def test_slow_figures_are_those_of_now_to_a_reader_who_can_wait() -> None:
    counted = iter(range(1, 10))
    remembered = Remembered(lambda: next(counted), long=-1, patience=60)
    assert [remembered.get() for _ in range(3)] == [1, 2, 3]


def test_a_failure_is_raised_to_the_first_reader_and_does_not_end_it() -> None:
    answers = iter([ValueError("no"), 7])

    def compute() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    remembered = Remembered(compute)
    with pytest.raises(ValueError, match="no"):
        remembered.get()
    assert remembered.get() == 7
