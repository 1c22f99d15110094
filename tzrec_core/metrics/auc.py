"""Area under the ROC curve: exact, and by group."""

import torch
from torch import Tensor

from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import sort_by_group, starts_of_runs, sum_by_group
from tzrec_core.metrics.validity import refuse_nan, refuse_not_binary, warn_if_nan


@one_thread()
def exact_auc(preds: Tensor, target: Tensor) -> Tensor:
    """Returns the share of (positive, negative) pairs with the positive's prediction higher.

    A tie counts 1/2: Mann-Whitney's U over the number of pairs, the area under the ROC curve
    (Hanley and McNeil, Radiology 143, 1982). Takes about 70 bytes of memory a row.

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
    # Rows of equal predictions in one group are a run; counts of runs, then sums by group.
    start = starts_of_runs(preds.gather(0, order), group.gather(0, order)).nonzero().flatten()
    sizes = start.diff(append=start.new_full((1,), len(preds)))
    positives = sum_by_group(target.gather(0, order) != 0, start + sizes)
    negatives = sizes - positives
    lower = negatives.cumsum(0) - negatives

    ends = torch.searchsorted(start, torch.bincount(group, minlength=num_groups).cumsum(0))
    num_positive, num_negative = sum_by_group(positives, ends), sum_by_group(negatives, ends)
    # Twice the wins, so that halves stay integers, less those over groups that come before.
    wins = sum_by_group(positives * (2 * lower + negatives), ends)
    wins -= 2 * num_positive * (num_negative.cumsum(0) - num_negative)
    has_both = (num_positive > 0) & (num_negative > 0)
    pairs = (num_positive * num_negative).where(has_both, 0)
    return wins.double() / 2 / pairs, has_both
