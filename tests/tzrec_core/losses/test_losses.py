import math

import pytest
import torch

from tzrec_core.losses.cross_entropy import binary_cross_entropy, softmax_cross_entropy
from tzrec_core.losses.l2 import l2_loss

SMOOTHINGS = [0.0, 0.1, 0.9]


def value_and_gradient(loss, logits, target):
    """Losses per row, and the gradient of their sum weighted by 1, 2, 3, ..."""
    leaf = logits.clone().requires_grad_()
    values = loss(leaf, target)
    (values * torch.arange(1, len(values) + 1)).sum().backward()
    return values.detach(), leaf.grad


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_binary_cross_entropy_is_the_formula(smoothing, dtype):
    logits = torch.tensor([[-2.0], [0.0], [0.5], [3.0], [-0.1]])
    target = torch.tensor([0, 1, 0, 1, 1]).to(dtype)

    values, gradient = value_and_gradient(
        lambda z, t: binary_cross_entropy(z, t, label_smoothing=smoothing), logits, target
    )

    for row, (logit, label) in enumerate(zip(logits.flatten().tolist(), target, strict=True)):
        p = 1 / (1 + math.exp(-logit))
        t = float(label) * (1 - smoothing) + smoothing / 2
        assert values[row] == pytest.approx(-t * math.log(p) - (1 - t) * math.log(1 - p), rel=1e-5)
        assert gradient[row, 0] == pytest.approx((row + 1) * (p - t), rel=1e-5)


def test_binary_cross_entropy_of_huge_logits_stays_finite():
    logits, target = torch.tensor([[200.0], [-200.0]]), torch.tensor([0, 1])
    values = binary_cross_entropy(logits, target, label_smoothing=0.0)
    torch.testing.assert_close(values, torch.tensor([200.0, 200.0]))


@pytest.mark.parametrize("smoothing", SMOOTHINGS)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_softmax_cross_entropy_is_the_formula(smoothing, dtype):
    logits = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
    target = torch.tensor([0, 1, 2, 3, 3, 0]).to(dtype)

    values, gradient = value_and_gradient(
        lambda z, t: softmax_cross_entropy(z, t, label_smoothing=smoothing), logits, target
    )

    for row in range(6):
        exponentials = [math.exp(z) for z in logits[row].tolist()]
        for c in range(4):
            p = exponentials[c] / sum(exponentials)
            t = (target[row] == c) * (1 - smoothing) + smoothing / 4
            assert gradient[row, c] == pytest.approx(float((row + 1) * (p - t)), abs=1e-5)
        expected = -sum(
            float((target[row] == c) * (1 - smoothing) + smoothing / 4)
            * math.log(exponentials[c] / sum(exponentials))
            for c in range(4)
        )
        assert values[row] == pytest.approx(expected, rel=1e-5)


def test_l2_loss_is_the_squared_difference():
    logits, target = torch.tensor([[1.5], [-2.0], [0.0]]), torch.tensor([1, 2, 0])
    values, gradient = value_and_gradient(l2_loss, logits, target)
    torch.testing.assert_close(values, torch.tensor([0.25, 16.0, 0.0]))
    torch.testing.assert_close(gradient, torch.tensor([[1 * 1.0], [2 * -8.0], [0.0]]))


@pytest.mark.parametrize(
    ("loss", "num_class"),
    [
        (lambda z, t: binary_cross_entropy(z, t, label_smoothing=0.1), 1),
        (lambda z, t: softmax_cross_entropy(z, t, label_smoothing=0.1), 3),
        (l2_loss, 1),
    ],
)
def test_losses_of_half_precision_logits_are_float32_and_of_no_rows_are_none(loss, num_class):
    logits, target = torch.randn(5, num_class), torch.tensor([0, 1, 1, 0, 1])
    values = loss(logits.bfloat16(), target)
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, loss(logits.bfloat16().float(), target))
    assert loss(logits[:0], target[:0]).shape == (0,)
