"""Update rules of embedding tables, fused into the backward pass by FBGEMM.

``apply_sparse_optimizer`` before sharding, ``fill_accumulators`` after it.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torchrec.optim
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward  # type: ignore[attr-defined]
from torchrec import EmbeddingBagCollection
from torchrec.optim.keyed import KeyedOptimizer


@dataclass(frozen=True)
class SparseRule:
    """How rows of embedding tables are updated.

    Attributes:
        optimizer_class: What TorchRec translates into FBGEMM's kernel.
        arguments: Its arguments, in FBGEMM's words but for ``lr``.
        initial_accumulator_value: What ``fill_accumulators`` starts Adagrad's sums with.
    """

    optimizer_class: type[torch.optim.Optimizer]
    arguments: Mapping[str, float | bool]
    initial_accumulator_value: float = 0.0


def sgd(*, lr: float, gradient_clipping: bool, max_gradient: float) -> SparseRule:
    """Returns ``w -= lr * g``."""
    return SparseRule(torchrec.optim.SGD, _arguments(lr, gradient_clipping, max_gradient))


def adagrad(
    *, lr: float, gradient_clipping: bool, max_gradient: float, initial_accumulator_value: float
) -> SparseRule:
    """Returns ``s += g * g; w -= lr * g / (sqrt(s) + 1e-8)``, a sum for each weight."""
    arguments = _arguments(lr, gradient_clipping, max_gradient)
    return SparseRule(torchrec.optim.Adagrad, arguments, initial_accumulator_value)


def rowwise_adagrad(*, lr: float, gradient_clipping: bool, max_gradient: float) -> SparseRule:
    """Returns ``s += mean(g * g); w -= lr * g / (sqrt(s) + 1e-8)``, a sum for each row."""
    arguments = _arguments(lr, gradient_clipping, max_gradient)
    return SparseRule(torchrec.optim.RowWiseAdagrad, arguments)


def _arguments(lr: float, gradient_clipping: bool, max_gradient: float) -> dict[str, float | bool]:
    # Each element of the gradient is clipped to [-max_gradient, max_gradient]; a clipped norm over
    # all tables is impossible, since every table is updated during the backward pass.
    return {"lr": lr, "gradient_clipping": gradient_clipping, "max_gradient": max_gradient}


def apply_sparse_optimizer(model: nn.Module, rule: SparseRule) -> None:
    """Gives every embedding table of ``model`` its update rule; before the model is sharded."""
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            for weight in module.parameters():
                # TorchRec changes the dictionary when it shards the table: each gets a copy.
                _apply_optimizer_in_backward(rule.optimizer_class, [weight], dict(rule.arguments))


def fill_accumulators(fused_optimizer: KeyedOptimizer, value: float) -> None:
    """Sets the sums of squared gradients of all tables; after sharding, before the first step.

    FBGEMM has no argument for this initial value.
    """
    for state in fused_optimizer.state.values():
        for sums in state.values():
            # ``shard`` makes the state a DTensor around TorchRec's list of local shards.
            for local_sums in sums.to_local().local_shards():
                local_sums.fill_(value)
