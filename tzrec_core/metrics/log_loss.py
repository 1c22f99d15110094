"""How surprising labels are to the predicted probabilities: log loss and normalized entropy."""

from functools import partial

import torch
from torch import Tensor

from tzrec_core.metrics.streaming import SumFormula, checked_labels, mean_over_rows
from tzrec_core.metrics.validity import refuse_nan, refuse_not_class, warn_if_nan


def row_log_loss(preds: Tensor, target: Tensor, *, eta: float) -> Tensor:
    """Returns -log(probability of the target), row by row.

    Args:
        preds: [B] probabilities of label 1, or [B, C] of each class.
        target: [B] int64 labels.
        eta: Probabilities are clamped to [eta, 1 - eta], in float64.

    Returns:
        [B] float64; NaN where a prediction of the row is.
    """
    preds = preds.double()
    if preds.dim() == 1:
        likelihood = torch.where(target == 1, preds, 1 - preds)
    else:
        likelihood = preds.gather(1, target[:, None]).squeeze(1)
        likelihood = likelihood.masked_fill(preds.isnan().any(dim=1), torch.nan)
    return -likelihood.clamp(eta, 1 - eta).log()


def log_loss(*, num_class: int, eta: float) -> SumFormula:
    """Returns the formula of the mean of ``row_log_loss``; NaN without rows."""
    row_value = partial(row_log_loss, eta=eta)
    return mean_over_rows("log_loss", row_value, num_labels=max(2, num_class))


def normalized_entropy(*, num_class: int, eta: float) -> SumFormula:
    """Returns the formula of log loss / entropy of the labels' shares.

    1 is as good as predicting every label's share of all rows; lower is better. NaN, with a
    warning, if all rows have one label, whose entropy is 0. He et al., "Practical Lessons from
    Predicting Clicks on Ads at Facebook", 2014.
    """
    num_labels = max(2, num_class)

    def add_up(preds: Tensor, target: Tensor) -> Tensor:
        target, num_wrong = checked_labels(target, num_labels)
        losses = row_log_loss(preds, target, eta=eta)
        counts = losses.new_zeros(num_labels).index_add_(0, target, torch.ones_like(losses))
        return torch.cat([torch.stack([losses.sum(), losses.isnan().sum(), num_wrong]), counts])

    def value(sums: Tensor) -> Tensor:
        total, num_nan, num_wrong = sums[:3]
        refuse_nan("normalized_entropy", num_nan)
        refuse_not_class("normalized_entropy", num_wrong, num_labels)
        num_rows = sums[3:].sum()
        shares = sums[3:] / num_rows
        entropy = -torch.xlogy(shares, shares).sum()
        # Its rounding must not decide between one label and several.
        ratio = (total / num_rows / entropy).where((sums[3:] > 0).sum() > 1, torch.nan)
        return warn_if_nan("normalized_entropy", ratio, "fewer than two classes have rows")

    return SumFormula(3 + num_labels, add_up, value)
