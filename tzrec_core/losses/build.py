"""Builds the losses that a config names."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from tzrec_core.losses.cross_entropy import binary_cross_entropy, softmax_cross_entropy
from tzrec_core.losses.l2 import l2_loss
from tzrec_core.protos import loss_pb2


@dataclass(frozen=True)
class Loss:
    """A loss under its name in the config.

    Attributes:
        name: The config's name of it.
        function: ([B, num_class] logits, [B] target) to [B] losses.
    """

    name: str
    function: Callable[[Tensor, Tensor], Tensor]


def build_loss(config: loss_pb2.LossConfig, *, num_class: int) -> Loss:
    """Builds the loss that ``config`` selects.

    Raises:
        ValueError: The loss is not supported or does not go with ``num_class``, or an option is
            out of range.
    """
    name = config.WhichOneof("loss")
    match name:
        case "binary_cross_entropy":
            _check_num_class(name, num_class, allowed=num_class == 1, expected="1")
            smoothing = _label_smoothing(name, config.binary_cross_entropy.label_smoothing)
            return Loss(name, partial(binary_cross_entropy, label_smoothing=smoothing))
        case "softmax_cross_entropy":
            _check_num_class(name, num_class, allowed=num_class >= 2, expected="2 or more")
            smoothing = _label_smoothing(name, config.softmax_cross_entropy.label_smoothing)
            return Loss(name, partial(softmax_cross_entropy, label_smoothing=smoothing))
        case "l2_loss":
            _check_num_class(name, num_class, allowed=num_class == 1, expected="1")
            return Loss(name, l2_loss)
        case kind:
            raise ValueError(
                f"losses must be binary_cross_entropy, softmax_cross_entropy or l2_loss, got {kind}"
            )


def _check_num_class(name: str, num_class: int, *, allowed: bool, expected: str) -> None:
    if not allowed:
        raise ValueError(f"{name} needs num_class {expected}, got {num_class}")


def _label_smoothing(name: str, label_smoothing: float) -> float:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{name}.label_smoothing must be in [0, 1), got {label_smoothing}")
    return label_smoothing
