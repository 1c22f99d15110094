"""Builds the losses that a config names."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from tzrec_core.batch import Batch
from tzrec_core.losses.cross_entropy import binary_cross_entropy, softmax_cross_entropy
from tzrec_core.losses.focal import binary_focal_loss
from tzrec_core.losses.jrc import jrc_loss
from tzrec_core.losses.l2 import l2_loss
from tzrec_core.protos import loss_pb2


@dataclass(frozen=True)
class Loss:
    """A loss under its name in the config.

    Attributes:
        name: The config's name of it.
        function: ([B, num_class] logits, [B] target) to [B] losses; with a ``session``, ([B,
            num_class] logits, [B] target, [B] session ids).
        session: The grouping key whose ids ``function`` needs, None if it needs none.
    """

    name: str
    function: Callable[..., Tensor]
    session: str | None = None

    def __call__(self, logits: Tensor, target: Tensor, batch: Batch) -> Tensor:
        """Returns the [B] losses of the rows of ``batch``.

        Raises:
            ValueError: The batch has no ids of ``session``.
        """
        if self.session is None:
            return self.function(logits, target)
        return self.function(logits, target, batch.ids(self.session))


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
        case "binary_focal_loss":
            _check_num_class(name, num_class, allowed=num_class == 1, expected="1")
            return Loss(name, _focal_loss(config.binary_focal_loss))
        case "jrc_loss":
            _check_num_class(name, num_class, allowed=num_class == 2, expected="2")
            return Loss(name, _jrc_loss(config.jrc_loss), session=config.jrc_loss.session_name)
        case kind:
            kinds = [field.name for field in config.DESCRIPTOR.oneofs_by_name["loss"].fields]
            raise ValueError(f"losses must be of {', '.join(kinds)}, got {kind}")


def _check_num_class(name: str, num_class: int, *, allowed: bool, expected: str) -> None:
    if not allowed:
        raise ValueError(f"{name} needs num_class {expected}, got {num_class}")


def _label_smoothing(name: str, label_smoothing: float) -> float:
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"{name}.label_smoothing must be in [0, 1), got {label_smoothing}")
    return label_smoothing


def _focal_loss(config: loss_pb2.BinaryFocalLoss) -> Callable[..., Tensor]:
    if not 0 <= config.gamma < math.inf:
        raise ValueError(f"binary_focal_loss.gamma must be finite and >= 0, got {config.gamma}")
    if not 0 < config.alpha < 1:
        raise ValueError(f"binary_focal_loss.alpha must be in (0, 1), got {config.alpha}")
    return partial(binary_focal_loss, gamma=config.gamma, alpha=config.alpha)


def _jrc_loss(config: loss_pb2.JRCLoss) -> Callable[..., Tensor]:
    if not config.session_name:
        raise ValueError("jrc_loss.session_name must name a feature or a column, it is empty")
    if not 0 <= config.alpha <= 1:
        raise ValueError(f"jrc_loss.alpha must be in [0, 1], got {config.alpha}")
    return partial(jrc_loss, alpha=config.alpha, same_label_competes=config.same_label_competes)
