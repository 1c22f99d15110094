"""The state of optimizers as named tensors, which a checkpoint saves and fills again."""

import copy
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from tzrec_core.optim.tables.kernel import NUM_UPDATES


def named_state(optimizer: CombinedOptimizer) -> dict[str, Tensor]:
    """Returns the optimizer's own state tensors by "<part>.<parameter>.<name of the state>".

    They share memory with it. Each is the same or a part of the same however tables are sharded.
    """
    return {
        f"{parameter}.{name}": _of_table(tensor) if name.endswith(f".{NUM_UPDATES}") else tensor
        for parameter, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def _of_table(numbers: Any) -> Tensor:
    # TorchRec makes it a DTensor of one number, always the same one, for each shard of the table.
    number: Tensor = numbers.to_local().local_shards()[0].view(())
    return number


def check_state(optimizer: CombinedOptimizer) -> None:
    """Checks that what is saved now can be restored.

    Raises:
        ValueError: A parameter has never had a gradient; on every rank.
    """
    for _, part in _dense_parts(optimizer):
        without = [name for name, tensor in part.params.items() if not part.state.get(tensor)]
        if 0 < len(without) < len(part.params):
            # A restart, which creates all state, would refuse the checkpoint later.
            raise ValueError(
                f"the model never uses these parameters, they have had no gradient: {without}"
            )


def create_state(optimizer: CombinedOptimizer) -> None:
    """Creates what torch leaves to the first step, which must be there to be filled.

    The new state has seen a step with gradients 0, which weight decay and bias correction count.
    """
    for _, part in _dense_parts(optimizer):
        weights = {name: weight.detach().clone() for name, weight in part.params.items()}
        part.init_state()  # a step, in which weights may decay
        part.zero_grad()
        with torch.no_grad():
            for name, weight in part.params.items():
                weight.copy_(weights[name])


def initial_state(optimizer: CombinedOptimizer) -> dict[str, dict[str, Any]]:
    """Returns the state of each dense parameter by its name, to be put back later."""
    return {
        name: copy.deepcopy(dict(part.state.get(weight, {})))
        for _, part in _dense_parts(optimizer)
        for name, weight in part.params.items()
    }


def put_back(
    optimizer: CombinedOptimizer, initial: dict[str, dict[str, Any]], parameters: Collection[str]
) -> None:
    """Gives the dense ones of ``parameters`` their initial state again, most often none."""
    for _, part in _dense_parts(optimizer):
        state: Any = part.state
        for name in part.params.keys() & set(parameters):
            state.pop(part.params[name], None)
            if initial[name]:
                state[part.params[name]] = initial[name]


def _dense_parts(optimizer: CombinedOptimizer) -> list[tuple[str, KeyedOptimizerWrapper]]:
    return [
        (k, part) for k, part in optimizer.optimizers if isinstance(part, KeyedOptimizerWrapper)
    ]
