"""X-AUC: how well predictions order a continuous target."""

import torch
from torch import Tensor

from tzrec_core.metrics.one_thread import one_thread
from tzrec_core.metrics.pairs import count_concordant_pairs, count_tied_pairs
from tzrec_core.metrics.validity import refuse_nan, warn_if_nan


@one_thread()
def xauc(preds: Tensor, target: Tensor, *, exclude_tied_targets: bool = False) -> Tensor:
    """Returns the share of pairs i < j with (target_i - target_j) * (pred_i - pred_j) > 0.

    A tie, in the target or in the prediction, is a pair but not in order (Zhan et al.,
    Deconfounding Duration Bias in Watch-time Prediction for Video Recommendation, KDD 2022). Every
    pair is counted, in O(n log n) and about 70 bytes of memory a row.

    Args:
        preds: [n].
        target: [n].
        exclude_tied_targets: Whether pairs with equal targets are left out.

    Returns:
        0-d float64; NaN, with a warning, if there is no pair.

    Raises:
        ValueError: NaN predictions or targets.
    """
    refuse_nan("xauc", (preds.isnan() | target.isnan()).sum())
    group = torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    concordant = count_concordant_pairs(preds, target, group, num_groups=1)[0]
    num_pairs = torch.full_like(concordant, len(preds) * (len(preds) - 1) // 2)
    reason = "fewer than two rows"
    if exclude_tied_targets:
        num_pairs -= count_tied_pairs(target, group, num_groups=1)[0]
        reason = "no two rows of different targets"
    return warn_if_nan("xauc", concordant.double() / num_pairs, reason)
