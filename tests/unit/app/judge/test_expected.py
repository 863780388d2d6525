"""What a bootstrap's plan says, by hand."""

import pytest

from app.judge.expected import Expected, Share
from app.judge.own_server import read_spec
from trainer.judge.specs import parse_server


def test_servers_of_a_stage_are_asked_at_the_same_time_and_own_versions_share_one() -> None:
    fast = parse_server("fast=http://h/v1,m,at_once=4,seconds=2,price=1/2")
    judge = parse_server("j=http://h/v1,m,price=3/5", "judge")
    own = [Share(read_spec(name), 80, 100, 50) for name in ("v1", "v2")]
    expected = Expected([[Share(fast, 600, 100, 50), *own], [Share(judge, 800, 400, 60)]])
    assert expected.calls == 600 + 2 * 80 + 800
    assert expected.tokens == 760 * 150 + 800 * 460
    cost = (600 * 100 * 1 + 600 * 50 * 2 + 800 * 400 * 3 + 800 * 60 * 5) / 1e6
    assert expected.cost == pytest.approx(cost)
    assert expected.seconds == max(600 * 2 / 4, 2 * 80 * 12 / 8) + 800 * 3 / 8
    assert Expected([own]).cost is None
