"""Reference log-probabilities across runs: found again, bounded, and never in the way."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from trainer.engine.prefix import reference_cache
from trainer.engine.prefix.reference_cache import ReferenceCache
from trainer.engine.prefix.scorer import Reply, Scores


def reply(number: int) -> Reply:
    return Reply([1, 2, number], [3, number], [4, number])


def scores(*numbers: float) -> Scores:
    return Scores(torch.tensor(numbers), -torch.tensor(numbers))


def cache(file: Path, model: str = "base") -> ReferenceCache:
    return ReferenceCache(file, model=model, max_mb=1)


def test_what_was_kept_is_found_by_another_run_of_the_same_model(tmp_path: Path) -> None:
    file = tmp_path / "data" / "references.db"
    assert cache(file).look_up([reply(1)]) is None
    cache(file).keep([reply(1), reply(2)], scores(1.5, 2.25))
    found = cache(file).look_up([reply(2), reply(1)])
    assert found is not None
    assert found.completions.tolist() == [2.25, 1.5]
    assert found.mismatched.tolist() == [-2.25, -1.5]
    assert cache(file, "another base").look_up([reply(1)]) is None
    assert cache(file).look_up([reply(1), reply(3)]) is None, "one is missing"


def test_only_what_is_missing_is_scored(tmp_path: Path) -> None:
    """A known reply beside a new partner, a known partner beside a new reply, and one that is known whole."""
    known, half, new = Reply([1], [2], [3]), Reply([5], [6], [7]), Reply([8], [9])
    cache(tmp_path / "r.db").keep([known, half], Scores(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -2.0])))
    kept = cache(tmp_path / "r.db")
    asked: list[Reply] = []

    def score(replies: list[Reply]) -> Scores:
        asked.extend(replies)
        return Scores(torch.tensor([40.0, 50.0, 60.0]), torch.tensor([-40.0, -50.0, -60.0]))

    replies = [known, Reply([5], [6], [70]), Reply([5], [60], [7]), new]
    found, reused = kept.complete(replies, score)
    assert asked == [Reply([5], [6], [70], wanted=False), Reply([5], [60]), new]
    assert found.completions.tolist() == [1.0, 2.0, 50.0, 60.0]
    assert found.mismatched.tolist() == [-1.0, -40.0, -2.0, 0.0]
    assert reused == 2
    again, reused = kept.complete(replies, lambda _: pytest.fail("all is known"))
    assert (again.completions.tolist(), reused) == (found.completions.tolist(), 0), "counted already, or new"
    _, reused = cache(tmp_path / "r.db").complete(replies, score)
    assert reused == 4
    assert again.mismatched.tolist() == found.mismatched.tolist()


def test_a_cache_that_cannot_be_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a file").touch()
    assert cache(tmp_path / "a file" / "r.db").look_up([reply(1)]) is None
    assert "are not kept" in caplog.text


def test_where_the_prompt_ends_is_part_of_the_key(tmp_path: Path) -> None:
    cache(tmp_path / "r.db").keep([Reply([1, 2], [3])], scores(1.0))
    assert cache(tmp_path / "r.db").look_up([Reply([1], [2, 3])]) is None
    assert cache(tmp_path / "r.db").look_up([Reply([1, 4], [3])]) is None


def test_what_is_known_already_does_not_keep_the_rest_out(tmp_path: Path) -> None:
    """Another run may have been faster with a part of it, and a reply can stand twice in a micro-batch."""
    cache(tmp_path / "r.db").keep([reply(1)], scores(1.0))
    cache(tmp_path / "r.db").keep([reply(1), reply(2), reply(2)], scores(1.0, 2.0, 2.0))
    found = cache(tmp_path / "r.db").look_up([reply(1), reply(2)])
    assert found is not None
    assert found.completions.tolist() == [1.0, 2.0]


def test_the_oldest_go_when_it_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reference_cache, "ENTRY_BYTES", 2**20 // 6)  # room for six entries, two a reply
    kept = cache(tmp_path / "r.db")
    for number in range(5):
        kept.keep([reply(number)], scores(number))
    assert [kept.look_up([reply(number)]) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_broken_file_or_one_that_vanishes_costs_nothing_but_time(tmp_path: Path) -> None:
    file = tmp_path / "r.db"
    file.write_bytes(b"no database at all" * 500)
    cache(file).keep([reply(1)], scores(1.0))
    assert cache(file).look_up([reply(1)]) is None
    other = cache(tmp_path / "other.db")
    for path in tmp_path.glob("other.db*"):
        path.unlink()
    other.keep([reply(1)], scores(1.0))
    assert other.look_up([reply(1)]) is None


def test_runs_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "r.db"

    def keep(number: int) -> None:
        cache(file).keep([reply(number)], scores(float(number)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, range(20)))
    assert all(cache(file).look_up([reply(number)]) for number in range(20))
