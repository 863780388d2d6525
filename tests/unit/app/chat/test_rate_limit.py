"""The limit of replies a minute, by a clock that the test moves."""

import pytest

from app.chat.rate_limit import Limits
from storage.errors import TooOften
from storage.settings import Settings


def test_requests_count_for_a_minute_and_refused_ones_do_not() -> None:
    moment = 1000.0
    limits = Limits(Settings(max_replies_per_minute=2), clock=lambda: moment)
    limits.take("ada")
    moment += 20
    limits.take("ada")
    limits.take("bob")
    with pytest.raises(TooOften) as refused:
        limits.take("ada")
    assert refused.value.retry_after == 40
    moment += 40
    limits.take("ada")
    with pytest.raises(TooOften) as refused:
        limits.take("ada")
    assert refused.value.retry_after == 20


def test_zero_is_no_limit() -> None:
    limits = Limits(Settings(max_replies_per_minute=0))
    for _ in range(1000):
        limits.take("ada")
