"""Replies sampled to learn from, with real models: only what the taste of the votes likes becomes a row."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.two_versions import ADAPTER, TwoVersions
from trainer.dataset.repetition import repeated
from trainer.dataset.tokenise import TokenisedExample
from trainer.taste.sampled_rows import keep_rows, kept_rows, least_probability, sample_liked
from trainer.taste.sampler import ReplySampler

QUESTIONS = [f"What is {number} plus {number}?" for number in range(20)]


class Rated(TwoVersions):
    def __init__(self, model: Path, folder: Path, **settings: object) -> None:
        super().__init__(model, folder, QUESTIONS, sampled_replies=2, seed=5, **settings)

    def scarce(self) -> list[TokenisedExample]:
        """A vote down on each of the base model's replies, and eight votes up on those of the adapter."""
        return self.votes(ADAPTER)[: len(QUESTIONS) + 8]

    def sample(self, votes: Sequence[TokenisedExample], deployed: Path | None, **changes: Any) -> Any:
        settings = self.settings.model_copy(update=changes)
        return sample_liked(self.source, deployed, votes, settings=settings, report=self.report)


@pytest.fixture(scope="module")
def rated(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Rated:
    return Rated(tiny_model, tmp_path_factory.mktemp("sampled"))


def test_what_the_deployed_version_writes_is_learned_from_where_people_like_it(rated: Rated) -> None:
    found = rated.sample(rated.scarce(), rated.adapter)
    assert (found.prompts, len(found.rows) >= 12) == (20, True), found.reason
    assert found.replies < 40, "a prompt with a liked reply is not asked again"
    assert len({tuple(row.prompt_ids) for row in found.rows}) == len(found.rows)
    assert all(row.label and row.example.source == "sampled" for row in found.rows)
    assert not any(row.example.user_id for row in found.rows), "nobody rated them"


def test_what_people_dislike_is_sampled_in_vain(rated: Rated) -> None:
    found = rated.sample(rated.scarce(), None)
    assert len(found.rows) <= 8, found.reason
    assert found.replies >= 32, "two attempts at each prompt"


def test_sampling_ends_where_as_much_is_liked_as_disliked(rated: Rated) -> None:
    votes = rated.votes(ADAPTER)
    even = rated.sample(votes, rated.adapter)
    assert (even.rows, even.replies) == ([], 0)
    assert "no fewer votes are up than down" in even.reason
    one_less = rated.sample(votes[:-1], rated.adapter, sampled_replies=50)
    assert (one_less.replies, len(one_less.rows) > 0) == (20, True), "one attempt is enough"


def test_a_reply_that_repeats_itself_is_not_learned_from(tiny_model: Path, tmp_path: Path) -> None:
    """At this temperature most of the base model's replies are loops, and the votes like them."""
    looping = Rated(tiny_model, tmp_path, temperature=0.05, gate_reply_tokens=64)
    votes = looping.votes(None)[len(QUESTIONS) - 8 :]

    def repetitions(most: float) -> list[float]:
        rows = looping.sample(votes, None, max_repetition=most).rows
        return [repeated(row.example.completion[0]["content"].split()) for row in rows]

    assert max(repetitions(1)) > 0.5
    assert max(repetitions(0.2)) <= 0.2


def test_the_newest_prompts_are_taken_first(rated: Rated) -> None:
    found = rated.sample(rated.scarce(), rated.adapter, sampled_prompts=3)
    asked = [row.example.prompt[0]["content"] for row in found.rows]
    assert found.prompts == 3
    assert asked
    assert set(asked) <= set(QUESTIONS[5:8])


def test_votes_that_were_read_are_not_read_again(rated: Rated) -> None:
    votes, known = rated.scarce(), {}
    settings = rated.settings.model_copy(update={"sampled_replies": 1})
    given: dict[str, Any] = {"settings": settings, "report": rated.report, "known": known}
    first = sample_liked(rated.source, rated.adapter, votes[1:], **given)
    read = dict(known)
    assert len(read) == len(votes) - 1
    sampler = ReplySampler(rated.source, {}, settings, rated.report)
    rated.phases.clear()
    taste = sampler.learn(votes, known)
    assert (len(known), rated.phases) == (len(votes), ["reading votes"])
    assert all(known[key] is features for key, features in read.items())
    assert first.rows
    fresh = sampler.learn(votes)
    assert taste.quality.brier == pytest.approx(fresh.quality.brier, rel=1e-6)  # type: ignore[union-attr]


def test_without_a_taste_nothing_is_sampled(rated: Rated) -> None:
    found = rated.sample(rated.votes(ADAPTER)[:23], rated.adapter)
    assert (found.rows, found.replies) == ([], 0)
    assert "A taste needs 8 liked replies" in found.reason


def test_a_later_attempt_gets_the_same_rows(rated: Rated, tmp_path: Path) -> None:
    votes = rated.scarce()
    found = rated.sample(votes, rated.adapter)
    assert kept_rows(tmp_path / "rows.json", votes) is None
    keep_rows(tmp_path / "rows.json", found)
    assert kept_rows(tmp_path / "rows.json", votes) == found
    assert (tmp_path / "rows.json").stat().st_mode & 0o777 == 0o600
    moved = replace(found, rows=found.rows[:1])
    keep_rows(tmp_path / "rows.json", moved)
    assert kept_rows(tmp_path / "rows.json", votes) == moved


@pytest.mark.parametrize(
    ("liked", "least"), [(0.01, 0.5), (0.1, 0.5), (0.5, 0.731), (0.9, 0.961), (0.99, 0.996)]
)
def test_a_reply_must_be_likelier_liked_than_a_vote(liked: float, least: float) -> None:
    assert least_probability(liked) == pytest.approx(least, abs=1e-3)
