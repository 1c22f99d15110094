"""Binary focal loss, per row."""

import torch
from torch import Tensor
from torch.nn import functional


def binary_focal_loss(logits: Tensor, target: Tensor, *, gamma: float, alpha: float) -> Tensor:
    """Returns -a_t (1 - p_t)^gamma log(p_t), row by row.

    Lin et al., Focal Loss for Dense Object Detection (ICCV 2017), eq. 5: p_t is the probability of
    the row's own class, a_t is ``alpha`` for class 1 and ``1 - alpha`` for class 0. The gradient is
    that of the whole expression, the factor (1 - p_t)^gamma included.

    Args:
        logits: [B, 1]; p = sigmoid(logit).
        target: [B], 0 or 1.
        gamma: 0 or more; 0 leaves the balanced cross entropy.
        alpha: In (0, 1).

    Returns:
        [B] float32, or float64 of float64 logits.
    """
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32)).squeeze(1)
    positive = (target == 1).to(logits.dtype)
    own = (2 * positive - 1) * logits
    balance = positive * alpha + (1 - positive) * (1 - alpha)
    # Powers through the logarithm: neither they nor their gradients overflow or become 0 / 0.
    modulation = torch.exp(gamma * functional.logsigmoid(-own))
    return -balance * modulation * functional.logsigmoid(own)
