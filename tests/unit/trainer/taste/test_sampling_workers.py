"""Replies sampled in two processes: the same ones, also where one of them dies."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.two_versions import ADAPTER, TwoVersions
from trainer.gate.prompts import general_prompts
from trainer.taste.sampler import ReplySampler, Share


@pytest.fixture(scope="module")
def versions(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> TwoVersions:
    return TwoVersions(tiny_model, tmp_path_factory.mktemp("workers"), general_prompts()[:20])


@pytest.fixture
def two(versions: TwoVersions) -> Iterator[ReplySampler]:
    with versions.sampler(processes=2) as sampler:
        yield sampler


def test_two_processes_sample_what_one_does_also_where_one_has_died(
    versions: TwoVersions, two: ReplySampler
) -> None:
    prompts = versions.prompts(two)
    alone = versions.sampler(processes=1).sample(prompts, ADAPTER, strength=0.5, seed=3)
    assert two.sample(prompts, ADAPTER, strength=0.5, seed=3) == alone
    shares = [Share(prompts, None), Share(prompts, ADAPTER, 0.5, 3), Share(prompts[:1], None)]
    both = two.sample_shares(shares)
    assert both[1] == alone
    assert both[2] == both[0][:1] != alone[:1]
    later = two.sample(prompts[1:], ADAPTER, strength=0.5, seed=3, first=1)
    assert later == alone[1:], "draws belong to the place"
    two.workers[0].process.kill()
    assert two.sample(prompts, ADAPTER, strength=0.5, seed=3) == alone


def test_a_cancelled_sampling_leaves_no_process(versions: TwoVersions) -> None:
    def cancel(_state: object) -> None:
        raise InterruptedError

    with versions.sampler(processes=2) as two:
        two.report = cancel
        with pytest.raises(InterruptedError):
            two.sample(versions.prompts(two), None)
        assert two.workers[0].process.is_alive()
    assert not two.workers[0].process.is_alive()
