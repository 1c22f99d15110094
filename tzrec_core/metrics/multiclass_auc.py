"""AUC of each class against all others, averaged over classes."""

import math
import warnings

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.auc import auc_by_group
from tzrec_core.metrics.exchange import own_rank, to_rank_0, together
from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.streaming import SumFormula, checked_labels
from tzrec_core.metrics.validity import refuse_nan, refuse_not_class, warn_if_nan

AVERAGES = ("macro", "weighted")


@one_thread()
def exact_multiclass_auc(preds: Tensor, target: Tensor, *, average: str) -> Tensor:
    """Returns the mean over classes c of the AUC of the prediction of c against ``target == c``.

    Ties count 1/2. Classes without rows, or with all of them, have no AUC and are left out with a
    warning.

    Args:
        preds: [n, C] scores.
        target: [n] classes 0 .. C - 1.
        average: "macro" weights classes alike, "weighted" by their number of rows.

    Returns:
        0-d float64; NaN, with a warning, if no class has an AUC.

    Raises:
        ValueError: NaN predictions, or targets that are no class.
    """
    num_class = preds.shape[1]
    target, num_wrong = checked_labels(target, num_class)
    refuse_nan("multiclass_auc", preds.isnan().any(dim=1).sum())
    refuse_not_class("multiclass_auc", num_wrong, num_class)
    classes = torch.arange(num_class, device=preds.device)[:, None]
    is_class = target == classes
    group = classes.expand_as(is_class)
    auc, _ = auc_by_group(preds.t().flatten(), is_class.flatten(), group.flatten(), num_class)
    return _mean_over_classes(auc, is_class.sum(dim=1), average)


class ExactMulticlassAUC(Metric):
    """``exact_multiclass_auc`` of the rows of all ranks, which it keeps: 4 C + 8 bytes each."""

    preds: list[Tensor]
    target: list[Tensor]

    def __init__(self, *, num_class: int, average: str) -> None:
        super().__init__(sync_on_compute=False)
        self.num_class = num_class
        self.average = average
        self.add_state("preds", [])
        self.add_state("target", [])

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.preds.append(preds.float())
        self.target.append(target.double())

    def compute(self) -> Tensor:
        none = torch.zeros(0, dtype=torch.float64, device=self.device)
        preds = torch.cat([none.float().new_zeros(0, self.num_class), *self.preds])
        columns = to_rank_0([*preds.unbind(dim=1), torch.cat([none, *self.target])])

        def of_all_rows() -> float:
            if own_rank() != 0:
                return math.nan
            preds, target = torch.stack(columns[:-1], dim=1), columns[-1]
            return exact_multiclass_auc(preds, target, average=self.average).item()

        return torch.tensor(together(of_all_rows)[0], dtype=torch.float64)


def binned_multiclass_auc(*, num_class: int, num_thresholds: int, average: str) -> SumFormula:
    """Returns the formula of ``exact_multiclass_auc`` with predictions binned.

    The bins are between ``num_thresholds`` thresholds evenly spaced over [0, 1]; predictions in one
    bin are tied.
    """
    shape = (num_class, num_thresholds + 1, 2)
    num_counts = num_class * (num_thresholds + 1) * 2

    def add_up(preds: Tensor, target: Tensor) -> Tensor:
        target, num_wrong = checked_labels(target, num_class)
        thresholds = torch.linspace(0, 1, num_thresholds, device=preds.device)
        bins = torch.bucketize(preds.contiguous(), thresholds, right=True)
        classes = torch.arange(num_class, device=preds.device)
        cell = (classes * shape[1] + bins) * 2 + (target[:, None] == classes)
        counts = torch.zeros(num_counts, dtype=torch.float64, device=preds.device)
        counts.index_add_(0, cell.flatten(), counts.new_ones(cell.numel()))
        num_nan = preds.isnan().any(dim=1).sum()
        return torch.cat([counts, torch.stack([num_nan, num_wrong])])

    def value(sums: Tensor) -> Tensor:
        num_nan, num_wrong = sums[num_counts:]
        refuse_nan("multiclass_auc", num_nan)
        refuse_not_class("multiclass_auc", num_wrong, num_class)
        negatives, positives = sums[:num_counts].view(shape).unbind(dim=2)
        lower = negatives.cumsum(dim=1) - negatives
        wins = (positives * (lower + negatives / 2)).sum(dim=1)
        num_positive, num_negative = positives.sum(dim=1), negatives.sum(dim=1)
        return _mean_over_classes(wins / (num_positive * num_negative), num_positive, average)

    return SumFormula(num_counts + 2, add_up, value)


def _mean_over_classes(auc: Tensor, num_rows: Tensor, average: str) -> Tensor:
    has_auc = ~auc.isnan()
    num_without = int((~has_auc).sum())
    if 0 < num_without < len(auc):
        warnings.warn(
            f"multiclass_auc leaves out {num_without} of {len(auc)} classes, which have no rows",
            stacklevel=2,
        )
    weights = num_rows.double() if average == "weighted" else torch.ones_like(auc)
    mean = auc[has_auc].dot(weights[has_auc]) / weights[has_auc].sum()
    return warn_if_nan("multiclass_auc", mean, "all rows have one class")
