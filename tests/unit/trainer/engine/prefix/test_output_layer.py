"""Log-probabilities in tiles equal those of the whole vocabulary at once, gradients included."""

import pytest
import torch

from trainer.engine.prefix.output_layer import OutputLayer, completion_logps

POSITIONS, VOCABULARY, WIDTH = 37, 1003, 24


@pytest.mark.parametrize("trained", [False, True], ids=["frozen", "trained"])
@pytest.mark.parametrize("cap", [None, 5.0])
@pytest.mark.parametrize("with_bias", [False, True])
def test_tiles_give_the_numbers_of_the_whole(cap: float | None, with_bias: bool, trained: bool) -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(POSITIONS, WIDTH, generator=draw, requires_grad=True)
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw, requires_grad=trained)
    bias = torch.randn(VOCABULARY, generator=draw, requires_grad=trained) if with_bias else None
    wanting = [one for one in (hidden, weight, bias) if one is not None and one.requires_grad]
    targets = torch.randint(VOCABULARY, (POSITIONS,), generator=draw)
    wanted = torch.randn(POSITIONS, generator=draw)

    output = OutputLayer(weight, bias, scale=0.7, cap=cap, tile=(16, 100))
    found = completion_logps(hidden, targets, output)
    gradients = torch.autograd.grad(found, wanting, wanted)

    scores = 0.7 * (hidden @ weight.t() + (0 if bias is None else bias))
    if cap is not None:
        scores = cap * (scores / cap).tanh()
    expected = scores.log_softmax(1).gather(1, targets[:, None])[:, 0]
    expected_gradients = torch.autograd.grad(expected, wanting, wanted)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_bf16_scores_are_not_rounded_to_8_bits() -> None:
    draw = torch.Generator().manual_seed(0)
    hidden = torch.randn(64, WIDTH, generator=draw).bfloat16()
    weight = (2 * torch.randn(VOCABULARY, WIDTH, generator=draw)).bfloat16()
    targets = torch.randint(VOCABULARY, (64,), generator=draw)
    exact = (hidden.double() @ weight.double().t()).log_softmax(1).gather(1, targets[:, None])[:, 0]
    rounded = (hidden @ weight.t()).double().log_softmax(1).gather(1, targets[:, None])[:, 0]
    found = completion_logps(hidden, targets, OutputLayer(weight)).double()
    assert (found - exact).abs().max() < (rounded - exact).abs().max() / 20


def test_the_gradient_of_a_sure_reply_is_not_lost_in_rounding() -> None:
    draw = torch.Generator().manual_seed(0)
    weight = torch.randn(VOCABULARY, WIDTH, generator=draw).bfloat16()
    targets = torch.randint(VOCABULARY, (64,), generator=draw)
    hidden = (0.7 * weight[targets].float()).bfloat16().requires_grad_()
    found = completion_logps(hidden, targets, OutputLayer(weight))
    (gradient,) = torch.autograd.grad(found.sum(), hidden)
    exact = hidden.detach().double().requires_grad_()
    logps = (exact @ weight.double().t()).log_softmax(1).gather(1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad(logps.sum(), exact)
    assert logps.median().exp() > 0.98
    off = (gradient.double() - expected).norm(dim=1)
    # Beyond that a logarithm of nearly 0 in fp32 says nothing.
    assert (off < 0.01 * expected.norm(dim=1) + 1e-5 * weight[targets].float().norm(dim=1)).all()
