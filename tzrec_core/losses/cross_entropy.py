"""Cross entropies with label smoothing, per row."""

from torch import Tensor
from torch.nn import functional


def binary_cross_entropy(logits: Tensor, target: Tensor, *, label_smoothing: float) -> Tensor:
    """Returns -t log(p) - (1 - t) log(1 - p) with p = sigmoid(logit), row by row.

    ``t`` is the target moved towards 1/2: ``target * (1 - label_smoothing) + label_smoothing / 2``.

    Args:
        logits: [B, 1].
        target: [B], 0 or 1.
        label_smoothing: In [0, 1).

    Returns:
        [B] float32.
    """
    smooth = target.float() * (1 - label_smoothing) + label_smoothing / 2
    return functional.binary_cross_entropy_with_logits(
        logits.float().squeeze(1), smooth, reduction="none"
    )


def softmax_cross_entropy(logits: Tensor, target: Tensor, *, label_smoothing: float) -> Tensor:
    """Returns -sum_c t_c log(softmax(logits)_c), row by row.

    ``t`` is the one-hot target moved towards the uniform distribution:
    ``onehot * (1 - label_smoothing) + label_smoothing / num_class``.

    Args:
        logits: [B, num_class].
        target: [B], a class from 0.
        label_smoothing: In [0, 1).

    Returns:
        [B] float32.
    """
    return functional.cross_entropy(
        logits.float(), target.long(), reduction="none", label_smoothing=label_smoothing
    )
