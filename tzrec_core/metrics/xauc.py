"""X-AUC: how well predictions order a continuous target."""

import torch
from torch import Tensor

from tzrec_core.metrics.pairs import count_concordant_pairs
from tzrec_core.metrics.validity import refuse_nan, warn_if_nan


def xauc(preds: Tensor, target: Tensor) -> Tensor:
    """Returns the share of pairs i < j with (target_i - target_j) * (pred_i - pred_j) > 0.

    A tie, in the target or in the prediction, is a pair but not in order.

    Args:
        preds: [n].
        target: [n].

    Returns:
        0-d float64; NaN, with a warning, for fewer than two rows.

    Raises:
        ValueError: NaN predictions or targets.
    """
    refuse_nan("xauc", (preds.isnan() | target.isnan()).sum())
    group = torch.zeros(len(preds), dtype=torch.int64, device=preds.device)
    concordant = count_concordant_pairs(preds, target, group, num_groups=1)[0]
    num_pairs = len(preds) * (len(preds) - 1) // 2
    return warn_if_nan("xauc", concordant.double() / num_pairs, "fewer than two rows")
