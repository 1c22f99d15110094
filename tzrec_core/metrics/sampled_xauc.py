"""X-AUC estimated from pairs that are drawn at random."""

import torch
from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.exchange import mixed
from tzrec_core.metrics.group_sums import GroupSums, GroupValues
from tzrec_core.metrics.in_batch_xauc import pair_counts, xauc_of_counts
from tzrec_core.metrics.order import argsort
from tzrec_core.metrics.pair_sample import pair_of, permuted
from tzrec_core.metrics.pairs import (
    count_concordant_pairs,
    count_tied_pairs,
    number_groups,
    sort_by_group,
)
from tzrec_core.metrics.validity import refuse_nan

_CHUNK = 1 << 20


def sampled_xauc(
    preds: Tensor,
    target: Tensor,
    *,
    sample_ratio: float | None = None,
    max_pairs: int | None = None,
    seed: int,
    exclude_tied_targets: bool = False,
) -> Tensor:
    """Returns the share in order of distinct pairs drawn at random; all pairs if they suffice.

    Unbiased; its standard error is at most 0.5 / sqrt(drawn pairs). The same rows in any order and
    the same seed give the same value. Memory is that of sorting the rows, whatever the number of
    pairs.

    Args:
        preds: [n].
        target: [n].
        sample_ratio: Share of the pairs to draw, in (0, 1]; at least one pair.
        max_pairs: Number of pairs to draw, 1 or more; takes the place of ``sample_ratio``.
        seed: Of the draw.
        exclude_tied_targets: Leaves pairs of equal targets out after drawing; the value is then a
            ratio of two unbiased estimates.

    Returns:
        0-d float64; NaN, with a warning, without a pair.

    Raises:
        ValueError: NaN predictions or targets.
    """
    counts = sampled_pair_counts(
        preds,
        target,
        sample_ratio=sample_ratio,
        max_pairs=max_pairs,
        seed=seed,
        exclude_tied_targets=exclude_tied_targets,
    )
    return xauc_of_counts(counts)


def sampled_pair_counts(
    preds: Tensor,
    target: Tensor,
    *,
    sample_ratio: float | None,
    max_pairs: int | None,
    seed: int,
    exclude_tied_targets: bool,
) -> Tensor:
    """Returns ``pair_counts`` of the pairs that ``sampled_xauc`` draws, [3] float64."""
    num_pairs = len(preds) * (len(preds) - 1) // 2
    if max_pairs is None:
        assert sample_ratio is not None
        max_pairs = max(1, round(sample_ratio * num_pairs))
    if max_pairs >= num_pairs:
        return pair_counts(preds, target, exclude_tied_targets=exclude_tied_targets)

    is_nan = preds.isnan() | target.isnan()
    group = torch.zeros_like(is_nan, dtype=torch.int64)
    order = _order(preds, target, group)
    preds, target = preds[order], target[order]
    key = mixed(group.new_tensor([_signed(seed)]))
    counts = torch.zeros(2, dtype=torch.int64, device=preds.device)
    for start in range(0, max_pairs, _CHUNK):
        number = torch.arange(start, min(start + _CHUNK, max_pairs), device=preds.device)
        drawn = permuted(number, torch.full_like(number, num_pairs), key.expand_as(number))
        in_order, counted = _compare(preds, target, *pair_of(drawn), exclude_tied_targets)
        counts += torch.stack([in_order.sum(), counted.sum()])
    return torch.cat([counts, is_nan.sum()[None]]).double()


def sampled_grouped_xauc_sums(
    preds: Tensor,
    target: Tensor,
    keys: Tensor,
    *,
    max_pairs_per_group: int,
    seed: int,
    exclude_tied_targets: bool = False,
) -> GroupSums:
    """Returns the sums of ``grouped_xauc_sums`` with xauc_g of pairs drawn from each group.

    Groups of at most ``max_pairs_per_group`` pairs use all of them. What is drawn from a group
    depends on its rows, its key and the seed only, not on their order or on other groups.

    Args:
        preds: [n].
        target: [n].
        keys: [n] int64, any values; equal ones are a group, ``NULL_ID`` is none.
        max_pairs_per_group: Number of distinct pairs to draw of a larger group, 1 or more.
        seed: Of the draw.
        exclude_tied_targets: Whether pairs with equal targets are left out, after drawing.

    Raises:
        ValueError: NaN predictions or targets.
    """
    refuse_nan("grouped_xauc", (preds.isnan() | target.isnan()).sum())
    num_rows = len(keys)
    known = keys != NULL_ID
    preds, target, keys = preds[known], target[known], keys[known]
    group, sizes = number_groups(keys)
    num_pairs = sizes * (sizes - 1) // 2
    is_large = num_pairs > max_pairs_per_group

    small = ~is_large[group]
    rows = (preds[small], target[small], group[small], len(sizes))
    in_order = count_concordant_pairs(*rows)
    counted = num_pairs.masked_fill(is_large, 0)
    if exclude_tied_targets:
        counted -= count_tied_pairs(*rows[1:])

    order = _order(preds, target, group)
    preds, target = preds[order], target[order]
    starts = sizes.cumsum(0) - sizes
    group_keys = mixed(keys[order][starts] ^ mixed(keys.new_tensor(_signed(seed))))
    large = is_large.nonzero().flatten()
    for start in range(0, len(large) * max_pairs_per_group, _CHUNK):
        stop = min(start + _CHUNK, len(large) * max_pairs_per_group)
        number = torch.arange(start, stop, device=preds.device)
        of = large[number // max_pairs_per_group]
        drawn = permuted(number % max_pairs_per_group, num_pairs[of], group_keys[of])
        i, j = (row + starts[of] for row in pair_of(drawn))
        is_in_order, is_counted = _compare(preds, target, i, j, exclude_tied_targets)
        in_order.index_add_(0, of, is_in_order.long())
        counted.index_add_(0, of, is_counted.long())

    weights = sizes.masked_fill(counted == 0, 0).double()
    return GroupValues(in_order.double() / counted, weights, sizes, num_rows).add_up()


def _order(preds: Tensor, target: Tensor, group: Tensor) -> Tensor:
    """Returns the order of rows by (group, target, prediction), equal for the same set of rows."""
    order = argsort(preds)
    return order[sort_by_group(target[order], group[order])]


def _compare(
    preds: Tensor, target: Tensor, i: Tensor, j: Tensor, exclude_tied_targets: bool
) -> tuple[Tensor, Tensor]:
    """Returns [m] bool, which pairs are in order, and which count.

    Rows i come before j in the order of targets, so only j's target can be the larger one.
    """
    is_above = target[j] > target[i]
    in_order = is_above & (preds[j] > preds[i])
    return in_order, is_above if exclude_tied_targets else torch.ones_like(is_above)


def _signed(seed: int) -> int:
    """Returns the int64 of the same bits as an uint64."""
    return seed - 2**64 if seed >= 2**63 else seed
