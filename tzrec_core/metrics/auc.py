"""Area under the ROC curve: exact, by group, and binned."""

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.pairs import sort_by_group, starts_of_runs, sum_by_group
from tzrec_core.metrics.validity import refuse_nan, refuse_not_binary, warn_if_nan


def exact_auc(preds: Tensor, target: Tensor) -> Tensor:
    """Returns the share of (positive, negative) pairs with the positive's prediction higher.

    A tie counts 1/2 (Mann-Whitney U).

    Args:
        preds: [n] scores.
        target: [n], 0 or 1.

    Returns:
        0-d float64; NaN, with a warning, if there are no positives or no negatives.

    Raises:
        ValueError: NaN predictions, or targets other than 0 and 1.
    """
    refuse_nan("auc", preds.isnan().sum())
    refuse_not_binary("auc", ((target != 0) & (target != 1)).sum())
    group = torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    auc, _ = auc_by_group(preds, target, group, num_groups=1)
    return warn_if_nan("auc", auc[0], "one class only")


def auc_by_group(
    preds: Tensor, target: Tensor, group: Tensor, num_groups: int
) -> tuple[Tensor, Tensor]:
    """Returns each group's ``exact_auc`` and whether it has one.

    Args:
        preds: [n] scores, no NaN.
        target: [n], 0 or 1.
        group: [n] int64 in 0 .. num_groups - 1.
        num_groups: Number of groups.

    Returns:
        [num_groups] float64 AUC, NaN where a group lacks positives or negatives; [num_groups] bool.
    """
    order = sort_by_group(preds, group)
    group, is_positive = group[order], target[order].long()
    ends = torch.bincount(group, minlength=num_groups).cumsum(0)
    num_positive = sum_by_group(is_positive, ends)
    num_negative = sum_by_group(1 - is_positive, ends)

    is_start = starts_of_runs(preds[order], group)
    run = is_start.cumsum(0) - 1
    run_start = torch.cat([is_start.nonzero().flatten(), run.new_full((1,), len(run))])
    negatives_through = torch.cat([run.new_zeros(1), (1 - is_positive).cumsum(0)])
    before_group = negatives_through[torch.cat([ends.new_zeros(1), ends])][group]
    lower = negatives_through[run_start[run]] - before_group
    not_higher = negatives_through[run_start[run + 1]] - before_group
    # Twice the wins, so that halves stay integers.
    wins = sum_by_group(is_positive * (lower + not_higher), ends)
    has_both = (num_positive > 0) & (num_negative > 0)
    pairs = (num_positive * num_negative).where(has_both, 0)
    return wins.double() / 2 / pairs, has_both


def count_by_bin(preds: Tensor, target: Tensor, thresholds: Tensor) -> Tensor:
    """Counts rows by bin of the prediction and by target.

    Args:
        preds: [n] probabilities.
        target: [n], 0 or 1.
        thresholds: [T] ascending.

    Returns:
        [T + 2, 3] int64. Row b counts predictions with b thresholds at or below them, row T + 1
        the NaN; the columns are targets 0, 1, and anything else.
    """
    bins = torch.bucketize(preds, thresholds, right=True)
    bins = bins.masked_fill(preds.isnan(), len(thresholds) + 1)
    column = torch.where(target == 1, 1, torch.where(target == 0, 0, 2))
    return torch.bincount(bins * 3 + column, minlength=3 * (len(thresholds) + 2)).view(-1, 3)


def auc_of_bins(counts: Tensor, *, name: str) -> Tensor:
    """Returns the 0-d float64 AUC of ``count_by_bin`` counts: rows of one bin are tied.

    NaN, with a warning, if there are no positives or no negatives.

    Raises:
        ValueError: NaN predictions or targets other than 0 and 1 have been counted.
    """
    refuse_nan(name, counts[-1].sum())
    refuse_not_binary(name, counts[:, 2].sum())
    negatives, positives = counts[:-1, 0].double(), counts[:-1, 1].double()
    lower = negatives.cumsum(0) - negatives
    wins = (positives * (lower + negatives / 2)).sum()
    return warn_if_nan(name, wins / (positives.sum() * negatives.sum()), "one class only")


class BinnedAUC(Metric):
    """AUC of predictions binned by ``num_thresholds`` thresholds evenly spaced over [0, 1].

    The trapezoids under the points of the ROC curve at the thresholds, with its ends (0, 0) and
    (1, 1). Fixed memory, summed over ranks.
    """

    higher_is_better = True
    thresholds: Tensor
    counts: Tensor

    def __init__(self, *, num_thresholds: int) -> None:
        super().__init__()
        thresholds = torch.linspace(0, 1, num_thresholds)
        self.register_buffer("thresholds", thresholds, persistent=False)
        counts = torch.zeros(num_thresholds + 2, 3, dtype=torch.int64)
        self.add_state("counts", counts, dist_reduce_fx="sum")

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.counts += count_by_bin(preds, target, self.thresholds)

    def compute(self) -> Tensor:
        return auc_of_bins(self.counts, name="auc")
