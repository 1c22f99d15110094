"""Whether predictions are as large as what they predict."""

import torch
from torch import Tensor

from tzrec_core.metrics.streaming import SumFormula, checked_labels
from tzrec_core.metrics.validity import refuse_nan, refuse_not_class, warn_if_nan


def calibration() -> SumFormula:
    """Returns the formula of sum(pred) / sum(target): 1 is right on average, above is too high.

    NaN, with a warning, if the targets add up to 0.
    """

    def add_up(preds: Tensor, target: Tensor) -> Tensor:
        preds, target = preds.double(), target.double()
        num_nan = (preds.isnan() | target.isnan()).sum()
        return torch.stack([preds.sum(), target.sum(), num_nan])

    def value(sums: Tensor) -> Tensor:
        of_preds, of_target, num_nan = sums
        refuse_nan("calibration", num_nan)
        ratio = (of_preds / of_target).where(of_target != 0, torch.nan)
        return warn_if_nan("calibration", ratio, "the targets add up to 0")

    return SumFormula(3, add_up, value)


def calibration_error(*, num_bins: int) -> SumFormula:
    """Returns the formula of the expected calibration error.

    sum_b n_b / n * |mean prediction of b - share of positives in b| over ``num_bins`` bins b of
    equal width of the predicted probability. Guo et al., "On Calibration of Modern Neural
    Networks", 2017, of the probability of label 1. NaN, with a warning, without rows.
    """

    def add_up(preds: Tensor, target: Tensor) -> Tensor:
        preds = preds.double()
        target, num_wrong = checked_labels(target, 2)
        bins = (preds * num_bins).long().clamp(0, num_bins - 1)
        excess = preds.new_zeros(num_bins).index_add_(0, bins, preds - target)
        num_rows = preds.new_full((), len(preds))
        return torch.cat([excess, torch.stack([num_rows, preds.isnan().sum(), num_wrong])])

    def value(sums: Tensor) -> Tensor:
        num_rows, num_nan, num_wrong = sums[num_bins:]
        refuse_nan("calibration_error", num_nan)
        refuse_not_class("calibration_error", num_wrong, 2)
        error = sums[:num_bins].abs().sum() / num_rows
        return warn_if_nan("calibration_error", error, "there are no rows")

    return SumFormula(num_bins + 3, add_up, value)
