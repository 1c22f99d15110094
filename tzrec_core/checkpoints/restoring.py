"""Checkpoints loaded into a model, sharded or not: of any number of ranks, whole or not at all."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.checkpoints import saved_plan, tensor_files
from tzrec_core.checkpoints.checkpoint import (
    AVERAGES_FOLDER,
    PLAN_FILE,
    Position,
    check_files,
    listed,
    read_position,
)
from tzrec_core.checkpoints.tensor_files import Shapes
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.optim.state import create_state, named_state


def restore(
    path: Path,
    ranks: Ranks,
    *,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer | None,
    is_checked: bool = False,
) -> Position:
    """Loads a checkpoint, of any number of ranks, into a sharded model; call it on every rank.

    Everything is compared before anything is loaded.

    Args:
        path: The checkpoint's folder.
        ranks: From ``distributed.ranks.process_group``.
        model: From ``distributed.sharding.shard``.
        optimizer: From ``optim.build.build_optimizer``; None leaves the saved state aside.
        is_checked: ``latest_intact`` has just found it, and its files need not be read twice.

    Raises:
        ValueError: The checkpoint is damaged or is of another model or optimizer; on every rank.
    """
    if not is_checked:
        check_files(path, ranks)
    position = read_position(path)
    of_model, of_optimizer = path / "model", path / "optimizer"
    weights = model.state_dict()  # shares memory with the model, as the optimizer's state does
    _compare(path, "model", tensor_files.shapes(of_model), shapes_of(weights))
    tensors_of_optimizer = {}
    if optimizer is not None:
        create_state(optimizer)
        tensors_of_optimizer = named_state(optimizer)
        saved = tensor_files.shapes(of_optimizer)
        check_plan(path, model, saved)
        _compare(path, "optimizer", saved, shapes_on_all_ranks(tensors_of_optimizer, ranks))
    tensor_files.read(of_model, weights, ranks.control)
    if optimizer is not None:
        tensor_files.read(of_optimizer, tensors_of_optimizer, ranks.control)
    return position


def load_unsharded(path: Path, module: nn.Module) -> None:
    """Loads a checkpoint's weights into an unsharded module with the same parameter names.

    Needs no process group. The module's tensors must be allocated, not on the meta device.

    Raises:
        ValueError: The checkpoint is damaged or is of another model.
    """
    check_files(path, None)
    of_model = path / "model"
    weights = module.state_dict()
    _compare(path, "model", tensor_files.shapes(of_model), shapes_of(weights))
    tensor_files.read(of_model, weights, None)


def load_averages(path: Path, tensors: Mapping[str, Tensor], ranks: Ranks | None) -> None:
    """Fills tensors with the checkpoint's averages of the dense parameters of their names.

    Call it on every rank, or alone. Tensors that have no average stay as they are.

    Raises:
        ValueError: The checkpoint is damaged, has no averages, or is of another model.
    """
    folder = path / AVERAGES_FOLDER
    if not folder.is_dir():
        raise ValueError(
            f"checkpoint {path} has no averages of dense parameters: it was trained without "
            "dense_optimizer.ema; set use_dense_ema: false"
        )
    saved = tensor_files.shapes(folder)
    ours = {name: tensor.detach() for name, tensor in tensors.items() if name in saved}
    _compare(path, "model", saved, shapes_of(ours))
    tensor_files.read(folder, ours, None if ranks is None else ranks.control)


def check_plan(path: Path, model: DistributedModelParallel, optimizer: Shapes) -> None:
    """Checks that the optimizer state of a checkpoint can be resharded to the model's plan.

    Raises:
        ValueError: It cannot, or the checkpoint is damaged.
    """
    try:
        plan = json.loads((path / PLAN_FILE).read_text())
        problems = saved_plan.fixed_tables(plan, saved_plan.describe(model), optimizer)
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {PLAN_FILE}: {error!r}") from error
    if problems:
        raise ValueError(
            f"checkpoint {path} has a rowwise optimizer's state, which cannot be carried over to "
            f"other column shards: {listed(problems)}. Shard these tables as they were, with "
            "embedding_constraints, or leave the state aside with --ignore_restore_optimizer"
        )


def shapes_of(tensors: Mapping[str, Tensor]) -> Shapes:
    """Returns the shapes of named tensors, whole ones where they are sharded."""
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def shapes_on_all_ranks(tensors: Mapping[str, Tensor], ranks: Ranks) -> Shapes:
    """Returns the shapes of the tensors that any rank has; call it on every rank."""
    of_ranks: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(of_ranks, shapes_of(tensors), group=ranks.control)
    return {name: shape for shapes in of_ranks for name, shape in shapes.items()}


def _compare(path: Path, part: str, saved: Shapes, ours: Shapes) -> None:
    """Raises ValueError unless names and shapes are the same."""
    differences = [
        *(f"{name} {list(ours[name])} is missing" for name in ours if name not in saved),
        *(
            f"{name} {list(saved[name])} is not in this {part}"
            for name in saved
            if name not in ours
        ),
        *(
            f"{name} is {list(saved[name])}, here {list(ours[name])}"
            for name in ours
            if name in saved and saved[name] != ours[name]
        ),
    ]
    if differences:
        raise ValueError(f"checkpoint {path} is of another {part}: {listed(differences)}")
