"""The optimizers of everything that is not an embedding table, together with the tables' own."""

import logging
import re
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import nn
from torch.optim.optimizer import ParamsT
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

log = logging.getLogger(__name__)

DenseFactory = Callable[[ParamsT], torch.optim.Optimizer]


def dense_parameters(model: nn.Module) -> dict[str, torch.Tensor]:
    """Returns by name the parameters that are not tables; those must have their sparse rule."""
    return dict(in_backward_optimizer_filter(model.named_parameters()))


def assign(names: Iterable[str], patterns: Sequence[str]) -> list[list[str]]:
    """Returns the names that no pattern matches as a whole, then those of each pattern.

    Raises:
        ValueError: A pattern matches no name, or two match the same one.
    """
    names = list(names)
    expressions = [re.compile(pattern) for pattern in patterns]
    groups: list[list[str]] = [[] for _ in range(len(patterns) + 1)]
    for name in names:
        matching = [i for i, expression in enumerate(expressions) if expression.fullmatch(name)]
        if len(matching) > 1:
            both = " and ".join(f"part_optimizers[{i}] {patterns[i]!r}" for i in matching)
            raise ValueError(f"parameter {name} is matched by {both}; only one of them may")
        groups[matching[0] + 1 if matching else 0].append(name)
    for index, pattern in enumerate(patterns):
        if not groups[index + 1]:
            raise ValueError(
                f"part_optimizers[{index}].regex_pattern {pattern!r} matches no parameter as a "
                f"whole; the names are {', '.join(names)}"
            )
    return groups


def combine(
    model: DistributedModelParallel,
    dense: DenseFactory,
    parts: Sequence[tuple[str, DenseFactory]] = (),
) -> CombinedOptimizer:
    """Returns the sharded model's fused optimizer and dense ones for all other parameters.

    They are named ``sparse``, ``dense``, ``part0``, ``part1`` and so on. ``step`` and ``zero_grad``
    pass a changed learning rate on to the fused kernels; the tables themselves have been updated in
    the backward pass.

    Args:
        model: From ``distributed.sharding.shard``.
        dense: Makes the optimizer of what is in no part.
        parts: For each part the pattern of its parameters' names, and what makes its optimizer.

    Raises:
        ValueError: A pattern matches no parameter, or two match the same one.
    """
    parameters = dense_parameters(model)
    groups = assign(parameters, [pattern for pattern, _ in parts])
    factories = {"dense": dense} | {f"part{i}": factory for i, (_, factory) in enumerate(parts)}
    return CombinedOptimizer(
        [
            ("sparse", model.fused_optimizer),
            *(
                (key, _keyed({name: parameters[name] for name in group}, factory))
                for group, (key, factory) in zip(groups, factories.items(), strict=True)
            ),
        ]
    )


def _keyed(parameters: dict[str, torch.Tensor], factory: DenseFactory) -> KeyedOptimizerWrapper:
    # Torch takes a group without parameters, but not an empty list: parts may leave nothing over.
    return KeyedOptimizerWrapper(parameters, lambda tensors: factory([{"params": tensors}]))


def log_parts(optimizer: CombinedOptimizer, patterns: Sequence[str]) -> None:
    """Logs which dense parameters each part's optimizer trains, and which are left."""
    (_, main), *parts = optimizer.optimizers[1:]
    for index, (pattern, (_, part)) in enumerate(zip(patterns, parts, strict=True)):
        log.info("part_optimizers[%d] %r trains %s", index, pattern, ", ".join(part.params))
    log.info("dense_optimizer trains all others: %s", ", ".join(main.params) or "there are none")


def set_learning_rates(optimizer: CombinedOptimizer, rates: Sequence[float]) -> None:
    """Puts the rates of the sparse optimizer, the dense one and each part in force.

    Tables take theirs with the next ``zero_grad`` or ``step``.
    """
    for (_, part), rate in zip(optimizer.optimizers, rates, strict=True):
        for group in part.param_groups:
            group["lr"] = rate


def learning_rates(optimizer: CombinedOptimizer) -> dict[str, float]:
    """Returns the learning rates that are now in force by the key they are logged under.

    ``lr/g0`` is the sparse one, ``lr/g1`` the dense one, ``lr/g2`` the first part's. The sparse one
    is missing on a rank without tables; rank 0 has one if there are any.
    """
    return {
        f"lr/g{index}": float(part.param_groups[0]["lr"])
        for index, (_, part) in enumerate(optimizer.optimizers)
        if part.param_groups
    }
