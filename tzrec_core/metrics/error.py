"""Errors of predicted values."""

from torch import Tensor


def absolute_error(preds: Tensor, target: Tensor) -> Tensor:
    """Returns |pred - target|, row by row, [B] float64."""
    return (preds.double() - target.double()).abs()


def squared_error(preds: Tensor, target: Tensor) -> Tensor:
    """Returns (pred - target)^2, row by row, [B] float64."""
    return (preds.double() - target.double()).square()
