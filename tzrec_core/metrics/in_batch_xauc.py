"""X-AUC of the pairs within each batch."""

from functools import partial

import torch
from torch import Tensor

from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import count_concordant_pairs, count_tied_pairs
from tzrec_core.metrics.streaming import SumFormula
from tzrec_core.metrics.validity import refuse_nan, warn_if_nan


@one_thread()
def pair_counts(preds: Tensor, target: Tensor, *, exclude_tied_targets: bool) -> Tensor:
    """Counts pairs of rows i < j with (target_i - target_j) * (pred_i - pred_j) > 0, and all pairs.

    Args:
        preds: [n].
        target: [n].
        exclude_tied_targets: Whether pairs with equal targets are left out.

    Returns:
        [3] float64: pairs in order, pairs, rows with a NaN, which make the pairs meaningless.
    """
    is_nan = preds.isnan() | target.isnan()
    preds, target = preds.masked_fill(is_nan, 0), target.masked_fill(is_nan, 0)
    group = torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    in_order = count_concordant_pairs(preds, target, group, num_groups=1)
    num_pairs = torch.full_like(in_order, len(preds) * (len(preds) - 1) // 2)
    if exclude_tied_targets:
        num_pairs -= count_tied_pairs(target, group, num_groups=1)
    return torch.cat([in_order, num_pairs, is_nan.sum()[None]]).double()


def xauc_of_counts(counts: Tensor) -> Tensor:
    """Returns the 0-d X-AUC of ``pair_counts``; NaN, with a warning, without a pair.

    Raises:
        ValueError: There were NaN.
    """
    in_order, num_pairs, num_nan = counts
    refuse_nan("xauc", num_nan)
    return warn_if_nan("xauc", in_order / num_pairs, "there are no pairs")


def in_batch_xauc(*, exclude_tied_targets: bool, weight_batches_equally: bool) -> SumFormula:
    """Returns the formula of X-AUC over the pairs of rows of one batch.

    Args:
        exclude_tied_targets: Whether pairs with equal targets are left out.
        weight_batches_equally: Averages the X-AUC of batches that have a pair, as TorchEasyRec
            does; otherwise every pair counts alike.
    """
    counts = partial(pair_counts, exclude_tied_targets=exclude_tied_targets)
    if not weight_batches_equally:
        return SumFormula(3, counts, xauc_of_counts)

    def add_up(preds: Tensor, target: Tensor) -> Tensor:
        in_order, num_pairs, num_nan = counts(preds, target)
        has_pairs = num_pairs > 0
        share = (in_order / num_pairs).where(has_pairs, 0)
        return torch.stack([share, has_pairs, num_nan])

    return SumFormula(3, add_up, xauc_of_counts)
