"""Metrics as functions of sums over groups of rows, which is all that a bootstrap needs.

A group is what is drawn as a whole, all rows of a user for example. Where keys are given, rows of
one key are a group. A row without a known key (``NULL_ID``) is a group of its own, and so is every
row where no keys are given. Metrics within groups know only groups of known key.

AUC and X-AUC are sums over pairs of rows. They enter by row: each row's pairs, with all rows of the
set. That is their Hajek projection, exact but for a term whose spread is smaller by 1 / sqrt(number
of groups) (W. Hoeffding, "A Class of Statistics with Asymptotically Normal Distribution", Annals of
Mathematical Statistics 19, 1948; for AUC E. DeLong et al., "Comparing the Areas under Two or More
Correlated ROC Curves", Biometrics 44, 1988). Rows drawn twice are not compared with themselves.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.group_sums import GroupValues
from tzrec_core.metrics.log_loss import row_log_loss
from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import concordant_by_row, number_groups
from tzrec_core.metrics.streaming import checked_labels
from tzrec_core.metrics.validity import refuse_nan, refuse_not_binary, refuse_not_class


@dataclass(frozen=True)
class GroupStatistics:
    """A metric as a function of sums over groups.

    Attributes:
        name: What messages call the metric.
        sums: [G, k] float64 on the CPU, what each group adds; 0 throughout if it has no part in
            the metric.
        formula: Turns sums [..., k] into values [...], NaN where there is none. Its value does not
            change if all sums are doubled.
    """

    name: str
    sums: Tensor
    formula: Callable[[Tensor], Tensor]

    @property
    def value(self) -> float:
        """The metric of all rows, NaN if there is none."""
        return self.formula(self.sums.sum(dim=0)).item()


def mean_statistics(name: str, values: Tensor, keys: Tensor | None) -> GroupStatistics:
    """Returns the mean over rows: mean errors, log loss, accuracy, recall.

    Args:
        name: What messages call the metric.
        values: [n], such as ``absolute_error``, ``row_log_loss`` or ``binary_hits`` return.
        keys: [n] int64, or None.

    Raises:
        ValueError: NaN values.
    """
    refuse_nan(name, values.isnan().sum())
    sums = _sum_groups([values, torch.ones_like(values)], keys)
    return GroupStatistics(name, sums, lambda sums: sums[..., 0] / sums[..., 1])


def group_mean_statistics(name: str, groups: GroupValues) -> GroupStatistics:
    """Returns the weighted mean over groups: grouped AUC, grouped X-AUC, NDCG.

    Args:
        name: What messages call the metric.
        groups: Such as ``grouped_auc_values``, ``grouped_xauc_values`` or ``ndcg_values`` return.
    """
    weighted = (groups.weights * groups.values).where(groups.weights > 0, 0)
    sums = torch.stack([weighted, groups.weights], dim=1).cpu()
    return GroupStatistics(name, sums, lambda sums: sums[..., 0] / sums[..., 1])


@one_thread()
def auc_statistics(preds: Tensor, target: Tensor, keys: Tensor | None) -> GroupStatistics:
    """Returns ``exact_auc``, whose arguments and errors it has, by groups of equal ``keys``."""
    refuse_nan("auc", preds.isnan().sum())
    refuse_not_binary("auc", ((target != 0) & (target != 1)).sum())
    is_positive = target == 1
    positives, negatives = preds[is_positive], preds[~is_positive]
    # Twice the rows of the other class that are on the right side, so that halves stay integers.
    wins = torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    wins[is_positive] = _count_lower_twice(negatives, positives)
    wins[~is_positive] = 2 * len(positives) - _count_lower_twice(positives, negatives)
    sums = _sum_groups([is_positive * wins, is_positive, ~is_positive * wins, ~is_positive], keys)
    won, num_positive, _, num_negative = sums.sum(dim=0)
    auc = won / (2 * num_positive * num_negative)

    def formula(sums: Tensor) -> Tensor:
        of_positives = sums[..., 0] / sums[..., 1] / (2 * num_negative)
        of_negatives = sums[..., 2] / sums[..., 3] / (2 * num_positive)
        value: Tensor = of_positives + of_negatives - auc
        return value.clamp(0, 1)

    return GroupStatistics("auc", sums, formula)


@one_thread()
def xauc_statistics(
    preds: Tensor, target: Tensor, keys: Tensor | None, *, exclude_tied_targets: bool = False
) -> GroupStatistics:
    """Returns ``xauc``, whose arguments and errors it has, by groups of equal ``keys``."""
    refuse_nan("xauc", (preds.isnan() | target.isnan()).sum())
    all_rows = torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    concordant = concordant_by_row(preds, target, all_rows)
    partners = torch.full_like(concordant, len(preds) - 1)
    if exclude_tied_targets:
        _, target_of_row, num_tied = target.unique(return_inverse=True, return_counts=True)
        partners = len(preds) - num_tied[target_of_row]
    sums = _sum_groups([concordant, partners, torch.ones_like(partners)], keys)
    num_concordant, num_partners, num_rows = sums.sum(dim=0)

    def formula(sums: Tensor) -> Tensor:
        concordant = 2 * sums[..., 0] / sums[..., 2] - num_concordant / num_rows
        partners = 2 * sums[..., 1] / sums[..., 2] - num_partners / num_rows
        value: Tensor = concordant / partners.where(partners > 0, torch.nan)
        return value.clamp(0, 1)

    return GroupStatistics("xauc", sums, formula)


def normalized_entropy_statistics(
    preds: Tensor, target: Tensor, keys: Tensor | None, *, eta: float
) -> GroupStatistics:
    """Returns log loss / entropy of the labels' shares.

    Args:
        preds: [n] probabilities of label 1, or [n, C] of each class.
        target: [n] int64 labels.
        keys: [n] int64, or None.
        eta: As in ``row_log_loss``.

    Raises:
        ValueError: NaN predictions, or targets that are no label.
    """
    num_labels = 2 if preds.dim() == 1 else preds.shape[1]
    target, num_wrong = checked_labels(target, num_labels)
    refuse_not_class("normalized_entropy", num_wrong, num_labels)
    losses = row_log_loss(preds, target, eta=eta)
    refuse_nan("normalized_entropy", losses.isnan().sum())
    sums = _sum_groups([losses, *(target == label for label in range(num_labels))], keys)

    def formula(sums: Tensor) -> Tensor:
        total, counts = sums[..., 0], sums[..., 1:]
        num_rows = counts.sum(dim=-1)
        shares = counts / num_rows[..., None]
        entropy = -torch.xlogy(shares, shares).sum(dim=-1)
        # Its rounding must not decide between one label and several.
        return (total / num_rows / entropy).where((counts > 0).sum(dim=-1) > 1, torch.nan)

    return GroupStatistics("normalized_entropy", sums, formula)


def calibration_statistics(preds: Tensor, target: Tensor, keys: Tensor | None) -> GroupStatistics:
    """Returns sum(pred) / sum(target).

    Args:
        preds: [n].
        target: [n].
        keys: [n] int64, or None.

    Raises:
        ValueError: NaN predictions or targets.
    """
    refuse_nan("calibration", (preds.isnan() | target.isnan()).sum())
    sums = _sum_groups([preds, target], keys)
    return GroupStatistics(
        "calibration",
        sums,
        lambda sums: (sums[..., 0] / sums[..., 1]).where(sums[..., 1] != 0, torch.nan),
    )


def _count_lower_twice(others: Tensor, values: Tensor) -> Tensor:
    """Returns for each value twice the number of others below it, and once that of those tied."""
    others = others.sort().values
    return torch.searchsorted(others, values) + torch.searchsorted(others, values, right=True)


def _sum_groups(columns: Sequence[Tensor], keys: Tensor | None) -> Tensor:
    """Returns the [G, len(columns)] float64 sums over groups of [n] columns, on the CPU."""
    if keys is None:
        return torch.stack([column.double() for column in columns], dim=1).cpu()
    known = keys != NULL_ID
    group = torch.empty_like(keys)
    group[known], sizes = number_groups(keys[known])
    num_groups = len(sizes) + int((~known).sum())
    group[~known] = torch.arange(len(sizes), num_groups, device=keys.device)
    sums = torch.zeros(num_groups, len(columns), dtype=torch.float64, device=keys.device)
    for place, column in enumerate(columns):
        sums[:, place].index_add_(0, group, column.double())
    return sums.cpu()
