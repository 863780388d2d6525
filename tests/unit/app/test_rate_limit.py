"""The limit for each minute: in memory, by a clock that the test moves, and in a real Redis."""

from pathlib import Path

import pytest

from app.rate_limit import PerMinute, SharedPerMinute, limit_per_minute
from storage.errors import BadSetting
from storage.settings import Settings
from tests.support.programs import free_port
from tests.support.redis import redis_server


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


def shared(store: str, most: int = 2) -> SharedPerMinute:
    return SharedPerMinute("test", most, store, PerMinute(most))


def test_servers_count_together_in_a_store(tmp_path: Path) -> None:
    with redis_server(tmp_path) as store:
        one, other = shared(store), shared(store)
        assert [one.take("ada"), other.take("ada"), other.take("bob")] == [0, 0, 0]
        for server in (one, other):
            assert 50 <= server.take("ada") <= 60
        assert shared(store, most=0).take("ada") == 0
        elsewhere = SharedPerMinute("another", 2, store, PerMinute(2))
        assert elsewhere.take("ada") == 0


def test_without_its_store_a_server_counts_for_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    port = free_port()
    with redis_server(tmp_path, port) as store:
        limit = shared(store)
        assert [limit.take("ada"), limit.take("ada")] == [0, 0]
        assert limit.take("ada") > 0
    assert [limit.take("ada"), limit.take("ada")] == [0, 0], "it has counted nothing before"
    assert limit.take("ada") > 0
    assert caplog.text.count("counts for itself") == 1


@pytest.mark.parametrize("store", ["nonsense", "unknown://host", "memcached://127.0.0.1:11211"])
def test_a_store_that_cannot_be_used_is_refused_by_name(store: str) -> None:
    settings = Settings(rate_limit_store=store)
    with pytest.raises(BadSetting, match="THUMBLOOP_RATE_LIMIT_STORE .* redis://host:6379") as refused:
        limit_per_minute("replies", 1, settings)
    assert store not in str(refused.value), "it may have a password"
