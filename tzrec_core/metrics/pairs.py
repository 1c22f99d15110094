"""Exact counts of pairs of rows, for all groups of rows at once.

Groups are given as numbers 0 .. num_groups - 1. Everything is O(n log n) in the number of rows,
in whole-tensor operations and integers: exact, with no loop over rows or groups.
"""

import torch
from torch import Tensor


def count_concordant_pairs(preds: Tensor, target: Tensor, group: Tensor, num_groups: int) -> Tensor:
    """Counts the pairs of one group that predictions and targets order alike.

    A pair (i, j) counts if (target_i - target_j) * (pred_i - pred_j) > 0; a tie never does.

    Rows are put in order of (group, target, pred descending). A pair then counts exactly if the
    earlier row has the lower prediction: among tied targets no earlier row has one. Predictions
    become their ranks within the group, and ranks are compared bit by bit from the highest: rows
    that agree so far form a block, in their order; a row with bit 1 exceeds every earlier row of
    its block with bit 0; then each block splits by the bit.

    Args:
        preds: [n], any float type, no NaN.
        target: [n], any numbers, no NaN.
        group: [n] int64 group of each row.
        num_groups: Number of groups; some may be without rows.

    Returns:
        [num_groups] int64.
    """
    sizes = torch.bincount(group, minlength=num_groups)
    if len(preds) == 0:
        return sizes
    ends = sizes.cumsum(0)
    by_pred = sort_by_group(preds, group)
    rank = torch.empty_like(group)
    rank[by_pred] = _dense_rank(preds[by_pred], group[by_pred], ends - sizes)

    order = torch.argsort(rank, descending=True, stable=True)
    order = order[torch.argsort(target[order], stable=True)]
    order = order[torch.argsort(group[order], stable=True)]
    rank = rank[order]
    # Rows never leave the range of their group, so positions stand for groups all along.
    block_start = torch.repeat_interleave(ends - sizes, sizes)
    block_end = torch.repeat_interleave(ends, sizes)
    position = torch.arange(len(rank), device=rank.device)
    count = torch.zeros_like(rank)
    for bit in reversed(range(int(rank.max()).bit_length())):
        is_one = (rank >> bit) & 1
        zeros_through = torch.cat([rank.new_zeros(1), (1 - is_one).cumsum(0)])
        zeros_before_block = zeros_through[block_start]
        zeros_before = zeros_through[:-1] - zeros_before_block
        zeros_end = block_start + zeros_through[block_end] - zeros_before_block
        count += is_one * zeros_before
        ones_before = position - block_start - zeros_before
        moved = torch.where(is_one == 1, zeros_end + ones_before, block_start + zeros_before)
        new_start = torch.where(is_one == 1, zeros_end, block_start)
        new_end = torch.where(is_one == 1, block_end, zeros_end)
        rank, block_start, block_end = (
            torch.empty_like(values).scatter_(0, moved, values)
            for values in (rank, new_start, new_end)
        )
    return sum_by_group(count, ends)


def sort_by_group(values: Tensor, group: Tensor) -> Tensor:
    """Returns the [n] order of rows by (group, value)."""
    order = torch.argsort(values, stable=True)
    return order[torch.argsort(group[order], stable=True)]


def sum_by_group(values: Tensor, ends: Tensor) -> Tensor:
    """Sums integers that lie group after group; ``ends`` [num_groups] is where each group ends."""
    through = torch.cat([values.new_zeros(1), values.cumsum(0)])[ends]
    return through.diff(prepend=through.new_zeros(1))


def starts_of_runs(values: Tensor, group: Tensor) -> Tensor:
    """Returns [n] bool, where a value or a group starts; rows are in (group, value) order."""
    changes = (values[1:] != values[:-1]) | (group[1:] != group[:-1])
    return torch.cat([changes.new_ones(min(1, len(values))), changes])


def _dense_rank(values: Tensor, group: Tensor, starts: Tensor) -> Tensor:
    """Ranks from 0 within each group, equal values alike; rows in (group, value) order."""
    run = starts_of_runs(values, group).cumsum(0) - 1
    # Groups without rows may start behind the last row; no row refers to them.
    return run - run[starts.clamp(max=len(run) - 1)][group]
