"""Normalized discounted cumulative gain within groups, for example of one user's rows."""

import torch
from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.group_sums import GroupSums, GroupValues
from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import number_groups, sort_by_group, starts_of_runs
from tzrec_core.metrics.validity import refuse_nan


def ndcg_sums(preds: Tensor, target: Tensor, keys: Tensor, *, top_k: int) -> GroupSums:
    """Returns the sums of the mean over groups; arguments and errors as ``ndcg_values``."""
    return ndcg_values(preds, target, keys, top_k=top_k).add_up()


@one_thread()
def ndcg_values(preds: Tensor, target: Tensor, keys: Tensor, *, top_k: int) -> GroupValues:
    """Returns each group's DCG@k / (the largest DCG@k of its rows).

    DCG@k = sum over the k rows of the highest predictions of target / log2(1 + rank): Jaervelin and
    Kekaelaeinen, "Cumulated Gain-Based Evaluation of IR Techniques", 2002, with their gain, the
    target itself. Of rows with tied predictions it is the mean over their orders, for which they
    share their ranks' discounts: McSherry and Najork, "Computing Information Retrieval Performance
    Measures Efficiently in the Presence of Tied Scores", 2008. Groups without a positive target
    have no value.

    Args:
        preds: [n].
        target: [n], >= 0: gains, or 0 and 1.
        keys: [n] int64, any values; equal ones are a group, ``NULL_ID`` is none.
        top_k: k, 1 or more.

    Raises:
        ValueError: NaN predictions, or targets that are negative or not finite.
    """
    refuse_nan("ndcg_at_k", (preds.isnan() | target.isnan()).sum())
    num_refused = int(((target < 0) | target.isinf()).sum())
    if num_refused:
        raise ValueError(f"ndcg_at_k: {num_refused} targets are negative or infinite")
    num_rows = len(keys)
    known = keys != NULL_ID
    preds, gains = preds[known], target[known].double()
    group, sizes = number_groups(keys[known])
    # Rows never leave the range of their group, so every order has the same ranks and groups.
    group_of_place = torch.repeat_interleave(sizes)
    starts = sizes.cumsum(0) - sizes
    rank = torch.arange(len(group), device=group.device) - starts[group_of_place]
    discounts = torch.log2(rank.double() + 2).reciprocal().masked_fill(rank >= top_k, 0)

    by_pred = sort_by_group(-preds, group)
    run = starts_of_runs(preds[by_pred], group_of_place).cumsum(0) - 1
    shared = torch.zeros_like(discounts).index_add_(0, run, discounts)
    run_sizes = torch.zeros_like(discounts).index_add_(0, run, torch.ones_like(discounts))
    dcg = _sum_by_group(gains[by_pred] * (shared / run_sizes)[run], group_of_place, len(sizes))
    best = gains[sort_by_group(-gains, group)]
    best_dcg = _sum_by_group(best * discounts, group_of_place, len(sizes))

    return GroupValues(dcg / best_dcg, (best_dcg > 0).double(), sizes, num_rows)


def _sum_by_group(values: Tensor, group: Tensor, num_groups: int) -> Tensor:
    return values.new_zeros(num_groups).index_add_(0, group, values)
