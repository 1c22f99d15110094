"""Formulas by which the rows of a table that a batch has looked up are updated.

All have the same form. ``weights`` [n, D] are the rows, ``gradients`` [n, D] the sums of each row's
gradients in the batch; what follows are the rows' own numbers, one a weight ([n, D]) or one a row
([n]), 0 before a row's first update. ``step`` counts the updates of the whole table from 1, as
FBGEMM does: a row that was not looked up does not age. Weights and the rows' numbers are changed in
place.

Where FBGEMM's CUDA kernels have the rule, formula and order of the rows' numbers are theirs
(``codegen/genscript/optimizers.py`` in FBGEMM's sources).
"""

import torch
from torch import Tensor
from torch.linalg import vector_norm


def rowwise_adagrad_l2(
    weights: Tensor,
    gradients: Tensor,
    sums: Tensor,
    *,
    lr: float,
    step: int,
    eps: float,
    weight_decay: float,
) -> None:
    """``g += decay * w; s += mean(g * g); w -= lr * g / (sqrt(s) + eps)``; ``sums`` is [n]."""
    decayed = torch.add(gradients, weights, alpha=weight_decay)
    sums.add_(decayed.square().mean(dim=1))
    rates = lr / (sums.sqrt() + eps)
    weights.sub_(decayed * rates[:, None])


def rowwise_adagrad_decoupled(
    weights: Tensor,
    gradients: Tensor,
    sums: Tensor,
    *,
    lr: float,
    step: int,
    eps: float,
    weight_decay: float,
) -> None:
    """``s += mean(g * g); w -= lr * (g / (sqrt(s) + eps) + decay * w)``; ``sums`` is [n]."""
    sums.add_(gradients.square().mean(dim=1))
    rates = lr / (sums.sqrt() + eps)
    weights.mul_(1 - lr * weight_decay).sub_(gradients * rates[:, None])


def adam(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    step: int,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """AdamW (arXiv:1711.05101, algorithm 2) with a decay of ``lr * weight_decay``."""
    exp_avg.lerp_(gradients, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
    scales = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    weights.mul_(1 - lr * weight_decay)
    weights.addcdiv_(exp_avg, scales, value=-lr / (1 - beta1**step))


def partial_rowwise_adam(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    step: int,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """``adam`` with the mean of a row's squared gradients in their place: ``exp_avg_sq`` is [n]."""
    exp_avg.lerp_(gradients, 1 - beta1)
    exp_avg_sq.lerp_(gradients.square().mean(dim=1), 1 - beta2)
    scales = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    weights.mul_(1 - lr * weight_decay)
    weights.addcdiv_(exp_avg, scales[:, None], value=-lr / (1 - beta1**step))


def lamb(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    step: int,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """LAMB (arXiv:1904.00962, algorithm 2) with each row as a layer: ``w -= lr * |w| / |u| * u``.

    ``u`` is what ``adam`` would subtract at a rate of 1. A row of zeros stays as it is.
    """
    exp_avg.lerp_(gradients, 1 - beta1)
    exp_avg_sq.mul_(beta2).addcmul_(gradients, gradients, value=1 - beta2)
    scales = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    updates = exp_avg.div(scales).div_(1 - beta1**step).add_(weights, alpha=weight_decay)
    _subtract_in_proportion(weights, updates, lr)


def partial_rowwise_lamb(
    weights: Tensor,
    gradients: Tensor,
    exp_avg: Tensor,
    exp_avg_sq: Tensor,
    *,
    lr: float,
    step: int,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
) -> None:
    """``lamb`` with the mean of a row's squared gradients in their place: ``exp_avg_sq`` is [n]."""
    exp_avg.lerp_(gradients, 1 - beta1)
    exp_avg_sq.lerp_(gradients.square().mean(dim=1), 1 - beta2)
    scales = (exp_avg_sq / (1 - beta2**step)).sqrt_().add_(eps)
    updates = exp_avg.div(scales[:, None]).div_(1 - beta1**step).add_(weights, alpha=weight_decay)
    _subtract_in_proportion(weights, updates, lr)


def lars_sgd(
    weights: Tensor,
    gradients: Tensor,
    momentum_buffer: Tensor,
    *,
    lr: float,
    step: int,
    momentum: float,
    eta: float,
    weight_decay: float,
) -> None:
    """LARS (arXiv:1708.03888, algorithm 1) with each row as a layer.

    ``m = momentum * m + lr * eta * |w| / (|g| + decay * |w|) * (g + decay * w); w -= m``
    """
    norms = vector_norm(weights, dim=1)
    divisors = vector_norm(gradients, dim=1).add_(norms, alpha=weight_decay)
    rates = _ratio(norms, divisors).mul_(lr * eta)
    decayed = torch.add(gradients, weights, alpha=weight_decay)
    momentum_buffer.mul_(momentum).add_(decayed * rates[:, None])
    weights.sub_(momentum_buffer)


def adadelta(
    weights: Tensor,
    gradients: Tensor,
    square_avg: Tensor,
    acc_delta: Tensor,
    *,
    lr: float,
    step: int,
    rho: float,
    eps: float,
    weight_decay: float,
) -> None:
    """The formula of ``torch.optim.Adadelta`` (arXiv:1212.5701), ``weight_decay`` as L2."""
    decayed = torch.add(gradients, weights, alpha=weight_decay)
    square_avg.mul_(rho).addcmul_(decayed, decayed, value=1 - rho)
    deltas = (acc_delta + eps).div_(square_avg + eps).sqrt_().mul_(decayed)
    acc_delta.mul_(rho).addcmul_(deltas, deltas, value=1 - rho)
    weights.sub_(deltas, alpha=lr)


def rmsprop(
    weights: Tensor,
    gradients: Tensor,
    square_avg: Tensor,
    *,
    lr: float,
    step: int,
    alpha: float,
    eps: float,
    weight_decay: float,
) -> None:
    """The formula of ``torch.optim.RMSprop``, neither centered nor with momentum; decay as L2."""
    decayed = torch.add(gradients, weights, alpha=weight_decay)
    square_avg.mul_(alpha).addcmul_(decayed, decayed, value=1 - alpha)
    weights.addcdiv_(decayed, square_avg.sqrt().add_(eps), value=-lr)


def _subtract_in_proportion(weights: Tensor, updates: Tensor, lr: float) -> None:
    ratios = _ratio(vector_norm(weights, dim=1), vector_norm(updates, dim=1))
    weights.sub_(updates.mul_(ratios[:, None]), alpha=lr)


def _ratio(norms: Tensor, divisors: Tensor) -> Tensor:
    # Where the divisor is 0 nothing is to be scaled; 0 / 0 would make the row NaN.
    return torch.where(divisors > 0, norms / divisors, 0.0)
