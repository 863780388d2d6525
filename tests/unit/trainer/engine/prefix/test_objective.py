"""The objective against figures computed by hand, its gradient, and its behaviour at the edges."""

import pytest
import torch

from trainer.engine.prefix.objective import LossType, liked_nll, losses, reference_point

EQUAL = torch.ones(2)
UP_DOWN = torch.tensor([True, False])


def loss(
    rewards: list[float],
    mismatched: list[float],
    *,
    weights: torch.Tensor = EQUAL,
    loss_type: LossType = "kto",
    labels: torch.Tensor = UP_DOWN,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss of each row, and the gradient of their mean for each log-ratio."""
    log_ratios = torch.tensor(rewards, dtype=torch.float64, requires_grad=True)
    z0 = reference_point(torch.tensor(mismatched, dtype=torch.float64))
    found = losses(log_ratios, labels, weights.double(), z0=z0, beta=0.1, loss_type=loss_type)
    (gradient,) = torch.autograd.grad(found.mean(), log_ratios)
    return found.detach(), gradient


def test_two_rows_computed_by_hand() -> None:
    found, gradient = loss([2, -1], [0.5, -0.1])
    assert found.tolist() == pytest.approx([0.4551211, 0.4700359], abs=1e-7)
    assert found.mean().item() == pytest.approx(0.4625785, abs=1e-7)
    assert gradient.tolist() == pytest.approx([-0.01239929, 0.01245511], abs=1e-8)


def test_where_policy_and_reference_are_equal() -> None:
    weights = torch.tensor([0.8, 1.3])
    found, gradient = loss([0, 0], [0, 0], weights=weights)
    assert found.mean().item() == pytest.approx((0.8 + 1.3) / 4)
    assert gradient.tolist() == pytest.approx([-0.8 * 0.1 / 8, 1.3 * 0.1 / 8])


def test_the_gradient_is_that_of_the_formula() -> None:
    """dL/dlogp = ∓λβσ(1−σ)/m, σ of β times the distance from z0."""
    rewards, weights, labels = (
        [3.0, -7.0, 0.5],
        torch.tensor([0.8, 1.3, 2.0]),
        torch.tensor([True, False, False]),
    )
    _, gradient = loss(rewards, [4, 1], weights=weights, labels=labels)
    sigmoid = (0.1 * (torch.tensor(rewards, dtype=torch.float64) - 2.5)).sigmoid()
    expected = torch.where(labels, -1, 1) * weights * 0.1 * sigmoid * (1 - sigmoid) / 3
    torch.testing.assert_close(gradient, expected, rtol=1e-6, atol=0)


def test_weights_are_linear_in_the_loss() -> None:
    once, _ = loss([2, -1], [0.5, -0.1])
    thrice, _ = loss([2, -1], [0.5, -0.1], weights=3 * EQUAL)
    torch.testing.assert_close(thrice, 3 * once)


def test_a_negative_mean_of_the_mismatched_pairs_is_exactly_0() -> None:
    assert reference_point(torch.tensor([-1, 0.5])).item() == 0
    assert reference_point(torch.tensor([])).item() == 0
    assert reference_point(torch.tensor([torch.nan, 1])).isnan()


def test_no_gradient_goes_through_the_mismatched_pairs() -> None:
    mismatched = torch.tensor([1.0, 2.0], requires_grad=True)
    assert not reference_point(mismatched).requires_grad


def test_apo_zero_has_no_reference_point() -> None:
    found, _ = loss([2, -1], [5, 5], loss_type="apo_zero_unpaired")
    sigmoid = torch.tensor([0.2, -0.1], dtype=torch.float64).sigmoid()
    assert found.tolist() == pytest.approx([1 - sigmoid[0].item(), sigmoid[1].item()])


@pytest.mark.parametrize("label", [True, False])
def test_extremes_and_batches_of_one_kind_are_finite(label: bool) -> None:
    found, gradient = loss([1e4, -1e4], [0, 0], labels=torch.tensor([label, label]))
    assert found.isfinite().all()
    assert gradient.isfinite().all()


def test_the_likelihood_of_liked_replies_by_hand() -> None:
    log_probabilities = torch.tensor([-12.0, -30.0, -5.0], requires_grad=True)
    found = liked_nll(
        log_probabilities,
        torch.tensor([4, 10, 0]),
        torch.tensor([True, False, True]),
        torch.tensor([2.0, 3.0, 1.0]),
    )
    assert found.tolist() == [2.0 * 12 / 4, 0.0, 5.0]
    found.sum().backward()  # type: ignore[no-untyped-call]
    assert log_probabilities.grad is not None
    assert log_probabilities.grad.tolist() == [-2.0 / 4, 0.0, -1.0]
