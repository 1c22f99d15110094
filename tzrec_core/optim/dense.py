"""The optimizer of everything that is not an embedding table, and of both together."""

from collections.abc import Callable

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

DenseFactory = Callable[[list[torch.Tensor]], torch.optim.Optimizer]


def combine(model: DistributedModelParallel, dense: DenseFactory) -> CombinedOptimizer:
    """Returns the sharded model's fused optimizer and a dense one for all other parameters.

    ``step`` and ``zero_grad`` pass a changed learning rate on to the fused kernels; the tables
    themselves have been updated in the backward pass.
    """
    parameters = dict(in_backward_optimizer_filter(model.named_parameters()))
    return CombinedOptimizer(
        [("sparse", model.fused_optimizer), ("dense", KeyedOptimizerWrapper(parameters, dense))]
    )


def learning_rates(optimizer: CombinedOptimizer) -> dict[str, float]:
    """Returns the learning rates that are now in force by the key they are logged under.

    ``lr/g0`` is the sparse one, ``lr/g1`` the dense one. The sparse one is missing on a rank
    without tables; rank 0 has one if there are any.
    """
    return {
        f"lr/g{index}": float(part.param_groups[0]["lr"])
        for index, (_, part) in enumerate(optimizer.optimizers)
        if part.param_groups
    }
