"""Squared error, per row."""

from torch import Tensor


def l2_loss(logits: Tensor, target: Tensor) -> Tensor:
    """Returns (logit - target)^2, row by row.

    Args:
        logits: [B, 1], the predicted values.
        target: [B].

    Returns:
        [B] float32.
    """
    return (logits.float().squeeze(1) - target.float()).square()
