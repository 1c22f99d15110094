"""Checkpoints: written aside and renamed, restored by any number of ranks, never in part.

::

    model_dir/model.ckpt-<step>/
        model/, optimizer/    named tensors (``tensor_files``)
        plan                  JSON: which ranks held which table
        dataloader_state.json JSON: how far training had come in the data
        state.json            the step, and what else the trainer keeps

A folder of that name is complete: until then its name is a hidden one. Apart from tensors there is
only JSON in it. Learning rates are not in it: they follow from the config and the step.
"""

import json
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper

from tzrec_core import tensor_files
from tzrec_core.distributed import Ranks, on_rank_0
from tzrec_core.tensor_files import Shapes

_NAME = re.compile(r"model\.ckpt-(\d+)")
_DATA_FILE = "dataloader_state.json"
_STATE_FILE = "state.json"


@dataclass(frozen=True)
class Position:
    """Where the training that wrote a checkpoint stood.

    Attributes:
        step: Number of steps taken.
        epoch: Number of epochs completed.
        consumed: Rows used of each window of the data in the unfinished epoch, by all ranks.
        state: What else the trainer gave to ``save``.
    """

    step: int
    epoch: int
    consumed: dict[int, int]
    state: dict[str, Any]


def checkpoint_path(model_dir: Path, step: int) -> Path:
    """Returns the folder of the checkpoint of ``step``."""
    return model_dir / f"model.ckpt-{step}"


def steps(model_dir: Path) -> list[int]:
    """Returns the steps of the checkpoints in ``model_dir``, ascending."""
    if not model_dir.is_dir():
        return []
    matches = [_NAME.fullmatch(path.name) for path in model_dir.iterdir() if path.is_dir()]
    return sorted(int(match[1]) for match in matches if match)


def latest(model_dir: Path) -> Path | None:
    """Returns the checkpoint of the greatest step, None if there is none."""
    saved = steps(model_dir)
    return checkpoint_path(model_dir, saved[-1]) if saved else None


def resolve(path: Path) -> Path:
    """Returns ``path`` if it is a checkpoint, else the latest checkpoint in it.

    Raises:
        ValueError: It is neither a checkpoint nor a folder with one.
    """
    if (path / _STATE_FILE).is_file():
        return path
    newest = latest(path)
    if newest is None:
        raise ValueError(f"{path} is no checkpoint and holds none (model.ckpt-<step>)")
    return newest


def prune(model_dir: Path, *, keep: int, protect: set[int]) -> None:
    """Deletes all but the ``keep`` newest checkpoints (0: keeps all) and the steps in ``protect``.

    Call it on one rank.
    """
    for step in steps(model_dir)[:-keep]:
        if step not in protect:
            _delete(checkpoint_path(model_dir, step))


def save(
    model_dir: Path,
    step: int,
    ranks: Ranks,
    *,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer,
    epoch: int,
    consumed: Mapping[int, int],
    state: Mapping[str, Any],
) -> Path:
    """Writes the checkpoint of ``step`` and returns its folder; call it on every rank.

    The folder appears under its name when it is complete, in place of an older one. What an
    interrupted save has left behind is deleted.

    Args:
        model_dir: A folder that all ranks see.
        step: Number of steps taken.
        ranks: From ``distributed.process_group``.
        model: From ``distributed.shard``.
        optimizer: From ``optim.build.build_optimizer``, after at least one step.
        epoch: Number of epochs completed.
        consumed: Rows used of each window of the data in the unfinished epoch, by this rank; a
            window that several ranks name counts once.
        state: What else a restart needs; must survive JSON. Rank 0's is written.

    Raises:
        OSError: The checkpoint cannot be written; on every rank.
        ValueError: A parameter has never had a gradient.
    """
    _check_optimizer_state(optimizer)
    data_position = {"epoch": epoch, "consumed": _union(consumed, ranks)}
    path = checkpoint_path(model_dir, step)
    aside = path.with_name(f".{path.name}.incomplete")

    def begin() -> None:
        for leftover in path.parent.glob(".model.ckpt-*"):
            shutil.rmtree(leftover)
        aside.mkdir(parents=True)

    def finish() -> None:
        (aside / "plan").write_text(json.dumps(_plan(model), indent=1))
        (aside / _DATA_FILE).write_text(json.dumps(data_position))
        (aside / _STATE_FILE).write_text(json.dumps({"step": step, "state": dict(state)}))
        if path.exists():
            _delete(path)
        aside.rename(path)

    on_rank_0(ranks, begin)
    tensor_files.write(aside / "model", model.state_dict(), ranks.control)
    tensor_files.write(aside / "optimizer", _flat(optimizer), ranks.control)
    on_rank_0(ranks, finish)
    return path


def read_position(path: Path) -> Position:
    """Returns where the training that wrote the checkpoint stood.

    Raises:
        ValueError: There is no checkpoint, or it is damaged.
    """
    if not path.is_dir():
        raise ValueError(f"there is no checkpoint {path}")
    try:
        data_position = json.loads((path / _DATA_FILE).read_text())
        content = json.loads((path / _STATE_FILE).read_text())
        return Position(
            step=content["step"],
            epoch=data_position["epoch"],
            consumed={int(window): rows for window, rows in data_position["consumed"].items()},
            state=content["state"],
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error!r}") from error


def restore(
    path: Path,
    ranks: Ranks,
    *,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer | None,
) -> Position:
    """Loads a checkpoint, of any number of ranks, into a sharded model; call it on every rank.

    Everything is compared before anything is loaded.

    Args:
        path: The checkpoint's folder.
        ranks: From ``distributed.process_group``.
        model: From ``distributed.shard``.
        optimizer: From ``optim.build.build_optimizer``; None leaves the saved state aside.

    Raises:
        ValueError: The checkpoint is damaged or is of another model or optimizer; on every rank.
    """
    position = read_position(path)
    of_model, of_optimizer = path / "model", path / "optimizer"
    weights = model.state_dict()  # shares memory with the model, as the optimizer's state does
    _compare(path, "model", tensor_files.shapes(of_model), _shapes(weights))
    tensors_of_optimizer = {}
    if optimizer is not None:
        _create_optimizer_state(optimizer)
        tensors_of_optimizer = _flat(optimizer)
        ours = _shapes_on_all_ranks(tensors_of_optimizer, ranks)
        _compare(path, "optimizer", tensor_files.shapes(of_optimizer), ours)
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
    read_position(path)  # raises if there is none
    of_model = path / "model"
    weights = module.state_dict()
    _compare(path, "model", tensor_files.shapes(of_model), _shapes(weights))
    tensor_files.read(of_model, weights, None)


def _delete(path: Path) -> None:
    # Hidden first: a folder that is half deleted must not be taken for a checkpoint.
    hidden = path.with_name(f".{path.name}.deleted")
    path.rename(hidden)
    shutil.rmtree(hidden)


def _union(consumed: Mapping[int, int], ranks: Ranks) -> dict[int, int]:
    of_ranks: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(of_ranks, dict(consumed), group=ranks.control)
    union: dict[int, int] = {}
    for windows in of_ranks:
        for window, rows in windows.items():
            union[window] = max(rows, union.get(window, 0))
    return union


def _plan(model: DistributedModelParallel) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        path: {
            table: {
                "sharding_type": sharding.sharding_type,
                "compute_kernel": sharding.compute_kernel,
                "ranks": sharding.ranks,
            }
            for table, sharding in tables.items()
        }
        for path, tables in model.plan.plan.items()
    }


def _flat(optimizer: CombinedOptimizer) -> dict[str, Tensor]:
    """Returns the optimizer's own state tensors by "<parameter>.<name of the state>"."""
    return {
        f"{parameter}.{name}": tensor
        for parameter, state in optimizer.state_dict()["state"].items()
        for name, tensor in state.items()
    }


def _dense_parts(optimizer: CombinedOptimizer) -> list[KeyedOptimizerWrapper]:
    return [part for _, part in optimizer.optimizers if isinstance(part, KeyedOptimizerWrapper)]


def _check_optimizer_state(optimizer: CombinedOptimizer) -> None:
    for part in _dense_parts(optimizer):
        without = [name for name, tensor in part.params.items() if not part.state.get(tensor)]
        if 0 < len(without) < len(part.params):
            # Every rank raises alike. A restart, which creates all state, would refuse this later.
            raise ValueError(
                f"the model never uses these parameters, they have had no gradient: {without}"
            )


def _create_optimizer_state(optimizer: CombinedOptimizer) -> None:
    """Creates what torch leaves to the first step, which must be there to be filled."""
    for part in _dense_parts(optimizer):
        weights = {name: weight.detach().clone() for name, weight in part.params.items()}
        part.init_state()  # a step with gradients 0, in which weights may still decay
        part.zero_grad()
        with torch.no_grad():
            for name, weight in part.params.items():
                weight.copy_(weights[name])


def _shapes(tensors: Mapping[str, Tensor]) -> Shapes:
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def _shapes_on_all_ranks(tensors: Mapping[str, Tensor], ranks: Ranks) -> Shapes:
    of_ranks: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(of_ranks, _shapes(tensors), group=ranks.control)
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
        more = f"; and {len(differences) - 10} more" if len(differences) > 10 else ""
        raise ValueError(
            f"checkpoint {path} is of another {part}: " + "; ".join(differences[:10]) + more
        )
