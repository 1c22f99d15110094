"""Whether a row is classified right: accuracy, and recall among the likeliest classes."""

import torch
from torch import Tensor


def binary_hits(preds: Tensor, target: Tensor, *, threshold: float) -> Tensor:
    """Returns whether (pred > threshold) == target, row by row.

    Args:
        preds: [B] probabilities.
        target: [B], 0 or 1.
        threshold: A prediction that equals it is a 0.

    Returns:
        [B] float64, 0 or 1; NaN where the prediction is.
    """
    hits = ((preds > threshold) == (target == 1)).double()
    return hits.masked_fill(preds.isnan(), torch.nan)


def top_k_hits(preds: Tensor, target: Tensor, *, top_k: int) -> Tensor:
    """Returns whether the target is among the ``top_k`` likeliest classes, row by row.

    Of h classes above the target's and t tied with it, itself included, an order drawn at random
    has it among the first k with probability (k - h) / t, clamped to [0, 1]; that is its value.

    Args:
        preds: [B, C] probabilities.
        target: [B] int64 classes.
        top_k: k, from 1 to C.

    Returns:
        [B] float64; NaN where a prediction of the row is.
    """
    own = preds.gather(1, target[:, None])
    num_higher, num_tied = (preds > own).sum(dim=1), (preds == own).sum(dim=1)
    hits = ((top_k - num_higher).double() / num_tied).clamp(0, 1)
    return hits.masked_fill(preds.isnan().any(dim=1), torch.nan)
