"""AUC of predictions in bins: fixed memory, whatever the number of rows."""

import torch
from torch import Tensor

from tzrec_core.metrics.streaming import SumFormula
from tzrec_core.metrics.validity import refuse_nan, refuse_not_binary, warn_if_nan


def binned_auc(*, num_thresholds: int, name: str = "auc") -> SumFormula:
    """Returns the formula of AUC where predictions in one bin are tied, which counts 1/2.

    The bins are between ``num_thresholds`` thresholds evenly spaced over [0, 1]: the value is the
    area of the trapezoids under the points of the ROC curve at the thresholds, with its ends (0, 0)
    and (1, 1). NaN, with a warning, if there are no positives or no negatives.
    """
    # A bin for the NaN comes last, and targets other than 0 and 1 count in the third column.
    shape = (num_thresholds + 2, 3)

    def add_up(preds: Tensor, target: Tensor) -> Tensor:
        thresholds = torch.linspace(0, 1, num_thresholds, device=preds.device)
        bins = torch.bucketize(preds.contiguous(), thresholds, right=True)
        bins = bins.masked_fill(preds.isnan(), num_thresholds + 1)
        column = torch.where(target == 1, 1, torch.where(target == 0, 0, 2))
        counts = torch.zeros(shape[0] * shape[1], dtype=torch.float64, device=preds.device)
        return counts.index_add_(0, bins * 3 + column, counts.new_ones(len(preds)))

    def value(sums: Tensor) -> Tensor:
        counts = sums.view(shape)
        refuse_nan(name, counts[-1].sum())
        refuse_not_binary(name, counts[:, 2].sum())
        negatives, positives = counts[:-1, 0], counts[:-1, 1]
        lower = negatives.cumsum(0) - negatives
        wins = (positives * (lower + negatives / 2)).sum()
        return warn_if_nan(name, wins / (positives.sum() * negatives.sum()), "one class only")

    return SumFormula(shape[0] * shape[1], add_up, value)
