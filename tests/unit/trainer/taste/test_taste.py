"""A learned taste on made-up replies, whose figures and states are known."""

from collections.abc import Callable

import numpy as np
import pytest

from trainer.taste.features import Features
from trainer.taste.taste import FOLDS, MIN_VOTES, Abstention, Taste, learn_taste

NAMES = ("words", "lines", "finished")
WIDTH = 12


def made_up(count: int, seed: int = 0) -> list[Features]:
    """Replies whose figures and states have nothing to do with each other."""
    draw = np.random.default_rng(seed)
    return [
        Features(
            dict(zip(NAMES, draw.normal(size=len(NAMES)).tolist(), strict=True)),
            *draw.normal(size=(2, WIDTH)).astype(np.float32),
        )
        for _ in range(count)
    ]


def votes(
    replies: list[Features], likes: Callable[[Features], bool], *, wrong: float = 0.05, seed: int = 0
) -> list[bool]:
    draw = np.random.default_rng(seed)
    return [likes(reply) != (draw.random() < wrong) for reply in replies]


def short(reply: Features) -> bool:
    return reply.plain["words"] < 0


def chats(count: int) -> list[str]:
    return [f"c{number}" for number in range(count)]


def learned(replies: list[Features], labels: list[bool], seed: int = 0) -> Taste:
    found = learn_taste(replies, labels, chats(len(replies)), seed)
    assert isinstance(found, Taste)
    return found


def test_a_taste_for_a_figure_is_learned_and_named() -> None:
    replies = made_up(120)
    taste = learned(replies, votes(replies, short))
    assert taste.quality.auc > 0.8
    assert (next(iter(taste.weights)), taste.weights["words"] < 0) == ("words", True)
    unseen = made_up(200, seed=1)
    scores = taste.score(unseen)
    liked = np.array([short(reply) for reply in unseen])
    assert scores[liked].mean() > scores[~liked].mean() + 0.4


def test_a_taste_for_a_state_is_learned() -> None:
    replies = made_up(200)
    taste = learned(replies, votes(replies, lambda reply: bool(reply.reply_state[3] > 0)))
    assert taste.quality.auc > 0.75


def test_probabilities_are_calibrated() -> None:
    replies = made_up(400)
    draw = np.random.default_rng(5)
    true = [1 / (1 + np.exp(2 * reply.plain["words"] + 1)) for reply in replies]
    taste = learned(replies, [bool(draw.random() < share) for share in true])
    unseen = made_up(400, seed=1)
    expected = np.mean([1 / (1 + np.exp(2 * reply.plain["words"] + 1)) for reply in unseen])
    assert taste.score(unseen).mean() == pytest.approx(expected, abs=0.06)
    assert taste.quality.calibration_error < 0.08
    assert taste.quality.brier < 0.85 * taste.quality.brier_of_share


def test_flipped_labels_give_the_opposite_taste() -> None:
    replies = made_up(120)
    labels = votes(replies, short)
    taste, opposite = learned(replies, labels), learned(replies, [not label for label in labels])
    unseen = made_up(50, seed=1)
    assert np.corrcoef(taste.score(unseen), opposite.score(unseen))[0, 1] < -0.95


def test_random_labels_seldom_pass_for_a_taste() -> None:
    replies = made_up(60)
    found = [
        learn_taste(replies, votes(replies, short, wrong=0.5, seed=seed), chats(60)) for seed in range(30)
    ]
    abstentions = [one for one in found if isinstance(one, Abstention)]
    assert len(abstentions) >= 19
    assert all("not better than chance: AUC" in one.reason and one.quality for one in abstentions)


def test_votes_of_one_chat_are_never_on_both_sides() -> None:
    """Each chat has one reply with six equal votes, by the toss of a coin: other chats tell nothing."""
    coin = np.random.default_rng(0).permutation([True, False] * 10).tolist()
    replies, labels, names = (
        [value for value in values for _ in range(6)] for values in (made_up(20), coin, chats(20))
    )
    assert isinstance(learn_taste(replies, labels, names), Abstention)
    assert learned(replies, labels).quality.auc > 0.95  # as if each vote had a chat of its own


@pytest.mark.parametrize(("liked", "kind"), [(MIN_VOTES - 1, "liked"), (60 - MIN_VOTES + 1, "disliked")])
def test_too_few_votes_of_a_kind(liked: int, kind: str) -> None:
    found = learn_taste(made_up(60), [number < liked for number in range(60)], chats(60))
    assert found == Abstention(f"A taste needs {MIN_VOTES} {kind} replies, and there are {MIN_VOTES - 1}.")


def test_too_few_chats_of_a_kind() -> None:
    labels = [number < 20 for number in range(60)]
    names = [f"c{number % 4 if liked else number}" for number, liked in enumerate(labels)]
    found = learn_taste(made_up(60), labels, names)
    assert found == Abstention(f"A taste needs liked replies of {FOLDS} chats, and there are 4.")


def test_the_same_votes_give_the_same_taste() -> None:
    replies = made_up(80)
    labels = votes(replies, short)
    one, other = learned(replies, labels), learned(replies, labels)
    assert one.to_dict() == other.to_dict()
    np.testing.assert_array_equal(one.score(replies), other.score(replies))


def test_one_extreme_figure_does_not_decide() -> None:
    replies = made_up(120)
    taste = learned(replies, votes(replies, short))
    state = replies[0].reply_state
    far, farther = (Features({**replies[0].plain, "lines": lines}, state, state) for lines in (50, 5000))
    assert taste.score([far]) == taste.score([farther])


def test_a_figure_that_never_varies_does_no_harm() -> None:
    replies = [Features({**reply.plain, "empty": 0.0}, *[reply.reply_state] * 2) for reply in made_up(80)]
    taste = learned(replies, votes(replies, short))
    assert taste.weights["empty"] == 0
    assert np.isfinite(taste.score(replies)).all()
