import math

import pytest
import torch

from tzrec_core.losses.cross_entropy import binary_cross_entropy
from tzrec_core.losses.focal import binary_focal_loss


def plain_focal_loss(logits, target, gamma, alpha):
    """The formula of the paper, row by row, as autograd differentiates it."""
    losses = []
    for logit, label in zip(logits[:, 0], target.tolist(), strict=True):
        p = 1 / (1 + torch.exp(-logit))
        p_t, a_t = (p, alpha) if label == 1 else (1 - p, 1 - alpha)
        losses.append(-a_t * (1 - p_t) ** gamma * torch.log(p_t))
    return torch.stack(losses)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0, 3.5])
@pytest.mark.parametrize("alpha", [0.5, 0.1])
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_value_and_gradient_are_the_papers(gamma, alpha, dtype):
    logits = torch.tensor([[-3.0], [0.0], [0.5], [4.0], [-0.1]], dtype=torch.float64)
    target = torch.tensor([0, 1, 0, 1, 1]).to(dtype)
    row_weights = torch.tensor([0.0, 1.0, 2.0, 3.0, 0.5], dtype=torch.float64)
    first, second = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    values = binary_focal_loss(first, target, gamma=gamma, alpha=alpha)
    expected = plain_focal_loss(second, target, gamma, alpha)
    (values * row_weights).sum().backward()
    (expected * row_weights).sum().backward()

    torch.testing.assert_close(values, expected)
    torch.testing.assert_close(first.grad, second.grad)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_gradient_is_the_slope(gamma):
    logits = torch.randn(8, 1, dtype=torch.float64, requires_grad=True)
    target = torch.tensor([0, 1] * 4)

    assert torch.autograd.gradcheck(
        lambda z: binary_focal_loss(z, target, gamma=gamma, alpha=0.3), logits
    )


def test_without_focus_it_is_half_the_cross_entropy():
    logits, target = torch.randn(6, 1), torch.tensor([0, 1, 1, 0, 1, 0])

    values = binary_focal_loss(logits, target, gamma=0.0, alpha=0.5)

    torch.testing.assert_close(
        values, binary_cross_entropy(logits, target, label_smoothing=0.0) / 2
    )


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_huge_logits_have_finite_losses_and_gradients(gamma):
    logits = torch.tensor([[200.0], [-200.0], [200.0], [-200.0]], requires_grad=True)
    target = torch.tensor([0, 1, 1, 0])

    values = binary_focal_loss(logits, target, gamma=gamma, alpha=0.5)
    values.sum().backward()

    torch.testing.assert_close(values, torch.tensor([100.0, 100.0, 0.0, 0.0]))
    torch.testing.assert_close(logits.grad[:, 0], torch.tensor([0.5, -0.5, 0.0, 0.0]))


def test_of_half_precision_logits_it_is_float32_and_of_no_rows_empty():
    logits, target = torch.randn(5, 1).bfloat16(), torch.tensor([0, 1, 1, 0, 1])

    values = binary_focal_loss(logits, target, gamma=2.0, alpha=0.25)

    assert values.dtype == torch.float32
    torch.testing.assert_close(
        values, binary_focal_loss(logits.float(), target, gamma=2.0, alpha=0.25)
    )
    assert binary_focal_loss(logits[:0], target[:0], gamma=2.0, alpha=0.25).shape == (0,)
    assert math.isfinite(values.sum().item())
