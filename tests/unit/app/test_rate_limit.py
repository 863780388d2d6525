"""The limit for each minute, by a clock that the test moves."""

from app.rate_limit import PerMinute


def test_events_count_for_a_minute_and_refused_ones_do_not() -> None:
    moment = 1000.0
    limit = PerMinute(2, clock=lambda: moment)
    assert limit.take("ada") == 0
    moment += 20
    assert [limit.take(key) for key in ("ada", "bob", "ada")] == [0, 0, 40]
    moment += 39.5
    assert limit.take("ada") == 1
    moment += 0.5
    assert [limit.take("ada"), limit.take("ada")] == [0, 20]


def test_zero_is_no_limit() -> None:
    limit = PerMinute(0)
    assert not any(limit.take("ada") for _ in range(1000))
