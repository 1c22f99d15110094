"""Update rules of embedding tables, fused into the backward pass.

``apply_sparse_optimizer`` before sharding, ``kernel_for`` around it, ``fill_accumulators`` after.
FBGEMM's kernel does what it can do; on a CPU ours (``tables``) does the rest.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torchrec.optim
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_training import WeightDecayMode
from torch import nn
from torch.distributed.optim import _apply_optimizer_in_backward  # type: ignore[attr-defined]
from torchrec import EmbeddingBagCollection
from torchrec.optim.keyed import KeyedOptimizer

from tzrec_core.optim.tables import updates
from tzrec_core.optim.tables.kernel import table_kernel
from tzrec_core.optim.tables.rows import RowRule

EPS = 1e-8
"""Of all rules whose message has no ``eps``; FBGEMM's default."""

LARS_ETA = 0.001
"""The trust coefficient of LARS, in which its message has no say; FBGEMM's default."""


@dataclass(frozen=True)
class SparseRule:
    """How rows of embedding tables are updated.

    Attributes:
        optimizer_class: From it TorchRec's planner estimates the memory of the tables' state, and
            takes FBGEMM's rule unless the arguments name it.
        arguments: FBGEMM's, in its words but for ``lr``, and ``row_rule`` for a rule of ours.
        initial_accumulator_value: What ``fill_accumulators`` starts Adagrad's sums with.
        needs_kernel: Tables must be sharded within ``kernel_for``.
    """

    optimizer_class: type[torch.optim.Optimizer]
    arguments: Mapping[str, Any]
    initial_accumulator_value: float = 0.0
    needs_kernel: bool = False


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


def decayed_rowwise_adagrad(
    *,
    lr: float,
    gradient_clipping: bool,
    max_gradient: float,
    weight_decay: float,
    decoupled: bool,
    device_type: str,
) -> SparseRule:
    """Returns ``rowwise_adagrad`` with weight decay: as L2 (``g += decay * w``) or decoupled."""
    arguments = _arguments(lr, gradient_clipping, max_gradient)
    if device_type == "cpu":
        formula = updates.rowwise_adagrad_l2
        if decoupled:
            formula = updates.rowwise_adagrad_decoupled
        update = partial(formula, eps=EPS, weight_decay=weight_decay)
        row_rule = RowRule(update, (("sum", True),))
        return _ours(torchrec.optim.RowWiseAdagrad, arguments, row_rule)
    mode = WeightDecayMode.DECOUPLE if decoupled else WeightDecayMode.L2
    return SparseRule(
        torchrec.optim.RowWiseAdagrad,
        {**arguments, "weight_decay": weight_decay, "weight_decay_mode": mode},
    )


@dataclass(frozen=True)
class Moments:
    """A rule with averages of gradients and of their squares: FBGEMM's for a GPU, ours else.

    Attributes:
        kind: FBGEMM's.
        update: Ours.
        squares_by_row: The average of squares is one number a row.
    """

    kind: EmbOptimType
    update: Callable[..., None]
    squares_by_row: bool


ADAM = Moments(EmbOptimType.ADAM, updates.adam, squares_by_row=False)
PARTIAL_ROWWISE_ADAM = Moments(
    EmbOptimType.PARTIAL_ROWWISE_ADAM, updates.partial_rowwise_adam, squares_by_row=True
)
LAMB = Moments(EmbOptimType.LAMB, updates.lamb, squares_by_row=False)
PARTIAL_ROWWISE_LAMB = Moments(
    EmbOptimType.PARTIAL_ROWWISE_LAMB, updates.partial_rowwise_lamb, squares_by_row=True
)


def with_moments(
    rule: Moments,
    *,
    lr: float,
    gradient_clipping: bool,
    max_gradient: float,
    beta1: float,
    beta2: float,
    weight_decay: float,
    device_type: str,
) -> SparseRule:
    """Returns ``ADAM``, ``LAMB`` or one of their partially row-wise forms."""
    # TorchRec's planner knows of Adam that it keeps two numbers a weight; of LAMB it does not.
    optimizer_class = torchrec.optim.Adam
    if rule.squares_by_row:
        optimizer_class = torchrec.optim.PartialRowWiseAdam
    arguments = _arguments(lr, gradient_clipping, max_gradient)
    hyperparameters = {"beta1": beta1, "beta2": beta2, "eps": EPS, "weight_decay": weight_decay}
    if device_type == "cpu":
        row_rule = RowRule(
            partial(rule.update, **hyperparameters),
            (("exp_avg", False), ("exp_avg_sq", rule.squares_by_row)),
            is_counted=True,
        )
        return _ours(optimizer_class, arguments, row_rule)
    return SparseRule(
        optimizer_class,
        {**arguments, **hyperparameters, "optimizer": rule.kind},
        needs_kernel=True,  # for the number of updates
    )


def lars_sgd(
    *,
    lr: float,
    gradient_clipping: bool,
    max_gradient: float,
    momentum: float,
    weight_decay: float,
) -> SparseRule:
    """Returns LARS, on a CPU: TorchRec cannot save the state of FBGEMM's."""
    update = partial(updates.lars_sgd, momentum=momentum, eta=LARS_ETA, weight_decay=weight_decay)
    return _ours(
        torchrec.optim.LarsSGD,
        _arguments(lr, gradient_clipping, max_gradient),
        RowRule(update, (("momentum_buffer", False),)),
    )


def adadelta(
    *,
    lr: float,
    gradient_clipping: bool,
    max_gradient: float,
    rho: float,
    eps: float,
    weight_decay: float,
) -> SparseRule:
    """Returns Adadelta, on a CPU: FBGEMM has none."""
    return _ours(
        torchrec.optim.Adam,  # has as many numbers a weight
        _arguments(lr, gradient_clipping, max_gradient),
        RowRule(
            partial(updates.adadelta, rho=rho, eps=eps, weight_decay=weight_decay),
            (("square_avg", False), ("acc_delta", False)),
        ),
    )


def rmsprop(
    *,
    lr: float,
    gradient_clipping: bool,
    max_gradient: float,
    alpha: float,
    eps: float,
    weight_decay: float,
) -> SparseRule:
    """Returns RMSprop, on a CPU: FBGEMM has none."""
    return _ours(
        torchrec.optim.Adagrad,  # has as many numbers a weight
        _arguments(lr, gradient_clipping, max_gradient),
        RowRule(
            partial(updates.rmsprop, alpha=alpha, eps=eps, weight_decay=weight_decay),
            (("square_avg", False),),
        ),
    )


def _arguments(lr: float, gradient_clipping: bool, max_gradient: float) -> dict[str, float | bool]:
    # Each element of the gradient of a lookup's output is clipped to [-max_gradient, max_gradient],
    # before those of equal rows are added up. A clipped norm over all tables is impossible, since
    # every table is updated during the backward pass.
    return {"lr": lr, "gradient_clipping": gradient_clipping, "max_gradient": max_gradient}


def _ours(
    optimizer_class: type[torch.optim.Optimizer],
    arguments: Mapping[str, float | bool],
    row_rule: RowRule,
) -> SparseRule:
    return SparseRule(
        optimizer_class,
        {**arguments, "optimizer": EmbOptimType.EXACT_SGD, "row_rule": row_rule},
        needs_kernel=True,
    )


def apply_sparse_optimizer(model: nn.Module, rule: SparseRule) -> None:
    """Gives every embedding table of ``model`` its update rule; before the model is sharded."""
    for module in model.modules():
        if isinstance(module, EmbeddingBagCollection):
            for weight in module.parameters():
                # TorchRec changes the dictionary when it shards the table: each gets a copy.
                _apply_optimizer_in_backward(rule.optimizer_class, [weight], dict(rule.arguments))


def kernel_for(rule: SparseRule) -> AbstractContextManager[None]:
    """Returns the ``with`` block in which tables with ``rule`` must be sharded."""
    return table_kernel() if rule.needs_kernel else nullcontext()


def fill_accumulators(fused_optimizer: KeyedOptimizer, value: float) -> None:
    """Sets the sums of squared gradients of all tables; after sharding, before the first step.

    FBGEMM has no argument for this initial value.
    """
    for state in fused_optimizer.state.values():
        for sums in state.values():
            # ``shard`` makes the state a DTensor around TorchRec's list of local shards.
            for local_sums in sums.to_local().local_shards():
                local_sums.fill_(value)
