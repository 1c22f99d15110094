"""Exact counts of pairs of rows, for all groups of rows at once.

Groups are given as numbers 0 .. num_groups - 1. Everything is O(n log n) in the number of rows,
in whole-tensor operations and integers: exact, with no loop over rows or groups. The most it takes
is about 70 bytes of memory a row beside its arguments.
"""

import torch
from torch import Tensor

from tzrec_core.metrics.order import argsort, lexsort, ordinals
from tzrec_core.metrics.permutations import count_smaller_before
from tzrec_core.metrics.validity import refuse_nan


def number_groups(keys: Tensor) -> tuple[Tensor, Tensor]:
    """Numbers the groups of rows with equal keys from 0, in order of the key.

    Args:
        keys: [n] int64, any values.

    Returns:
        [n] int64 group of each row; [G] int64 rows of each group.
    """
    order = argsort(keys)
    keys = keys.gather(0, order)
    group = torch.zeros_like(order)
    torch.cumsum(keys[1:] != keys[:-1], 0, out=group[1:])
    return torch.empty_like(group).scatter_(0, order, group), torch.bincount(group)


def count_concordant_pairs(preds: Tensor, target: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Counts the pairs of one group that predictions and targets order alike.

    A pair (i, j) counts if (target_i - target_j) * (pred_i - pred_j) > 0; a tie never does.

    Args:
        preds: [n], any float or integer type.
        target: [n], any float or integer type.
        group: [n] int64 group of each row.
        num_groups: Number of groups; some may be without rows.

    Returns:
        [num_groups] int64.

    Raises:
        ValueError: NaN predictions or targets.
    """
    permutation = _permutation(preds, target, group)[0]
    ends = torch.bincount(group, minlength=num_groups).cumsum(0)
    return sum_by_group(count_smaller_before(permutation), ends)


def count_tied_pairs(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Counts the pairs of one group with equal values.

    Args:
        values: [n], any float or integer type, no NaN.
        group: [n] int64 group of each row.
        num_groups: Number of groups; some may be without rows.

    Returns:
        [num_groups] int64.
    """
    order = sort_by_group(values, group)
    values, group = values.gather(0, order), group.gather(0, order)
    start = starts_of_runs(values, group).nonzero().flatten()
    sizes = start.diff(append=start.new_full((1,), len(values)))
    counts = torch.zeros(num_groups, dtype=torch.int64, device=group.device)
    return counts.index_add_(0, group.gather(0, start), sizes * (sizes - 1) // 2)


def concordant_by_row(preds: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Counts for each row the rows of its group with which it makes a concordant pair.

    Args:
        preds: [n], any float or integer type.
        target: [n], any float or integer type.
        group: [n] int64 group of each row.

    Returns:
        [n] int64; its sum over a group is twice the group's ``count_concordant_pairs``.

    Raises:
        ValueError: NaN predictions or targets.
    """
    permutation, row_of_value = _permutation(preds, target, group)
    smaller_before = count_smaller_before(permutation)
    larger_before = torch.arange(len(permutation), device=group.device) - smaller_before
    larger_after = len(permutation) - 1 - permutation - larger_before
    row = row_of_value.gather(0, permutation)
    return torch.empty_like(row).scatter_(0, row, smaller_before + larger_after)


def _permutation(preds: Tensor, target: Tensor, group: Tensor) -> tuple[Tensor, Tensor]:
    """Makes concordant pairs those that are in order in a permutation.

    The entries are the rows in order of (group, prediction), the value of an entry is its place in
    order of (group descending, target): so rows of two groups are not in order. Rows of equal
    targets are placed by descending prediction, and entries of equal predictions come by descending
    value: so a tie is not in order either.

    Returns:
        [n] int64 permutation; [n] int64 row of each value.
    """
    refuse_nan("concordant pairs", (preds.isnan() | target.isnan()).sum())
    preds, target = ordinals(preds), ordinals(target)
    by_value = lexsort(~preds, target, ~group)
    downward = by_value.flip(0)
    order = lexsort(preds.gather(0, downward), group.gather(0, downward))
    permutation = order.neg_().add_(len(order) - 1)
    return permutation, by_value


def sort_by_group(values: Tensor, group: Tensor) -> Tensor:
    """Returns the stable [n] order of rows by (group, value)."""
    return lexsort(values, group)


def sum_by_group(values: Tensor, ends: Tensor) -> Tensor:
    """Sums [n] integers or bools group by group; ``ends`` [num_groups] is where each group ends."""
    through = torch.zeros(len(values) + 1, dtype=torch.int64, device=values.device)
    torch.cumsum(values, 0, out=through[1:])
    through = through.gather(0, ends)
    return through.diff(prepend=through.new_zeros(1))


def starts_of_runs(values: Tensor, group: Tensor) -> Tensor:
    """Returns [n] bool, where a value or a group starts; rows are in (group, value) order."""
    changes = (values[1:] != values[:-1]) | (group[1:] != group[:-1])
    return torch.cat([changes.new_ones(min(1, len(values))), changes])
