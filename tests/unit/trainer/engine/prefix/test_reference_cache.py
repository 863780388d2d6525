"""Reference log-probabilities across runs: found again, bounded, and never in the way."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from trainer.dataset.batch import Batch, Item
from trainer.engine.prefix.reference_cache import ENTRY_BYTES, ReferenceCache
from trainer.engine.prefix.scorer import Scores


def batch(*numbers: int) -> Batch:
    return [Item([1, 2, number], [3, number], [4, number]) for number in numbers]


def scores(*numbers: float) -> Scores:
    return Scores(torch.tensor(numbers), -torch.tensor(numbers))


def cache(file: Path, model: str = "base") -> ReferenceCache:
    return ReferenceCache(file, model=model, max_mb=1)


def test_what_was_kept_is_found_by_another_run_of_the_same_model(tmp_path: Path) -> None:
    file = tmp_path / "data" / "references.db"
    assert cache(file).look_up(batch(1)) is None
    cache(file).keep(batch(1, 2), scores(1.5, 2.25))
    found = cache(file).look_up(batch(2, 1))
    assert found is not None
    assert found.completions.tolist() == [2.25, 1.5]
    assert found.mismatched.tolist() == [-2.25, -1.5]
    assert cache(file, "another base").look_up(batch(1)) is None
    assert cache(file).look_up(batch(1, 3)) is None, "one is missing"


def test_only_what_is_missing_is_scored(tmp_path: Path) -> None:
    """A known reply with a new partner, a known partner with a new reply, and one that is known whole."""
    known = [Item([1], [2], [3]), Item([5], [6], [7])]
    cache(tmp_path / "r.db").keep(known, Scores(torch.tensor([1.0, 2.0]), torch.tensor([-1.0, -2.0])))
    kept = cache(tmp_path / "r.db")
    asked: list[Batch] = []

    def score(missing: Batch) -> Scores:
        asked.append(missing)
        return Scores(torch.tensor([0.0, 50.0, 60.0]), torch.tensor([-40.0, 0.0, 0.0]))

    given = [*known[:1], Item([5], [6], [70]), Item([5], [60], [7]), Item([8], [9], None)]
    found, reused = kept.complete(given, score)
    assert asked == [[Item([5], None, [70]), Item([5], [60], None), Item([8], [9], None)]]
    assert found.completions.tolist() == [1.0, 2.0, 50.0, 60.0]
    assert found.mismatched.tolist() == [-1.0, -40.0, -2.0, 0.0]
    assert reused == 2
    again, reused = kept.complete(given, lambda _: pytest.fail("all is known"))
    assert (again.completions.tolist(), reused) == (found.completions.tolist(), 0), "counted already, or new"
    _, reused = cache(tmp_path / "r.db").complete(given, score)
    assert reused == 4
    assert again.mismatched.tolist() == found.mismatched.tolist()


def test_a_cache_that_cannot_be_used_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "a file").touch()
    assert cache(tmp_path / "a file" / "r.db").look_up(batch(1)) is None
    assert "are not kept" in caplog.text


def test_where_the_prompt_ends_is_part_of_the_key(tmp_path: Path) -> None:
    cache(tmp_path / "r.db").keep([Item([1, 2], [3], None)], scores(1.0))
    assert cache(tmp_path / "r.db").look_up([Item([1], [2, 3], None)]) is None
    assert cache(tmp_path / "r.db").look_up([Item([1, 4], [3], None)]) is None


def test_what_is_known_already_does_not_keep_the_rest_out(tmp_path: Path) -> None:
    """Another run may have been faster with a part of it, and a reply can stand twice in a micro-batch."""
    cache(tmp_path / "r.db").keep(batch(1), scores(1.0))
    cache(tmp_path / "r.db").keep(batch(1, 2, 2), scores(1.0, 2.0, 2.0))
    found = cache(tmp_path / "r.db").look_up(batch(1, 2))
    assert found is not None
    assert found.completions.tolist() == [1.0, 2.0]


def test_the_oldest_go_when_it_is_full(tmp_path: Path) -> None:
    room = 6 * ENTRY_BYTES / 2**20  # for six entries, two a row
    kept = ReferenceCache(tmp_path / "r.db", model="base", max_mb=room)
    for number in range(5):
        kept.keep(batch(number), scores(number))
    assert [kept.look_up(batch(number)) is not None for number in range(5)] == [
        False,
        False,
        True,
        True,
        True,
    ]


def test_a_broken_file_or_one_that_vanishes_costs_nothing_but_time(tmp_path: Path) -> None:
    file = tmp_path / "r.db"
    file.write_bytes(b"no database at all" * 500)
    cache(file).keep(batch(1), scores(1.0))
    assert cache(file).look_up(batch(1)) is None
    other = cache(tmp_path / "other.db")
    for path in tmp_path.glob("other.db*"):
        path.unlink()
    other.keep(batch(1), scores(1.0))
    assert other.look_up(batch(1)) is None


def test_runs_at_the_same_time_lose_nothing(tmp_path: Path) -> None:
    file = tmp_path / "r.db"

    def keep(number: int) -> None:
        cache(file).keep(batch(number), scores(float(number)))

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(keep, range(20)))
    assert all(cache(file).look_up(batch(number)) for number in range(20))
