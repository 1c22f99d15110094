"""Checkpoints: what they consist of, which there are, and whether they are as they were written.

::

    model_dir/latest              text: the name of the newest checkpoint, for people and scripts
    model_dir/model.ckpt-<step>/
        model/, optimizer/        named tensors (``tensor_files``)
        ema/                      likewise: averages of dense parameters, if there are any
        plan                      JSON: which ranks held which table
        dataloader_state.json     JSON: how far training had come in the data
        state.json                the step, and what else the trainer keeps
        manifest.json             size and hash of every other file (``manifest``)

A folder of that name is complete: until then its name is a hidden one (``writer``).
Apart from tensors there is only JSON in it. Learning rates are not in it: they follow from the
config and the step.

The newest checkpoint is the one of the greatest step. ``latest`` only repeats it and is never read:
what it could say otherwise is where an interruption has left it behind.
"""

import json
import logging
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch.distributed as dist

from tzrec_core.checkpoints import manifest
from tzrec_core.distributed.ranks import Ranks, on_rank_0

log = logging.getLogger(__name__)

LATEST_FILE = "latest"
DATA_FILE = "dataloader_state.json"
STATE_FILE = "state.json"
AVERAGES_FOLDER = "ema"
PLAN_FILE = "plan"
_NAME = re.compile(r"model\.ckpt-(\d+)")


@dataclass(frozen=True)
class Position:
    """Where the training that wrote a checkpoint stood.

    Attributes:
        step: Number of steps taken.
        epoch: Number of epochs completed.
        consumed: Rows used of each window of the data in the unfinished epoch, by all ranks.
        state: What else the trainer gave to be saved.
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
    """Returns ``path`` if it is a checkpoint, damaged or not, else the latest checkpoint in it.

    Raises:
        ValueError: It is neither a checkpoint nor a folder with one.
    """
    is_named_like_one = _NAME.fullmatch(path.name) and path.is_dir()
    if is_named_like_one or (path / manifest.FILE).is_file():
        return path
    newest = latest(path)
    if newest is None:
        raise ValueError(f"{path} is no checkpoint and holds none (model.ckpt-<step>)")
    return newest


def latest_intact(model_dir: Path, ranks: Ranks) -> Path | None:
    """Returns the newest checkpoint whose files are all as they were written, None without any.

    Call it on every rank. Newer ones that are damaged are named in a warning and renamed to
    ``model.ckpt-<step>.damaged``: they would stand in the way of those that are written next.

    Raises:
        ValueError: There are checkpoints, and all of them are damaged.
    """
    damaged: dict[str, str] = {}
    for step in reversed(on_rank_0(ranks, lambda: steps(model_dir))):
        path = checkpoint_path(model_dir, step)
        problems = _damage(path, ranks)
        if not problems:
            on_rank_0(ranks, partial(_set_aside, damaged, path))
            return path
        damaged[path.name] = listed(problems)
    if damaged:
        raise ValueError(
            f"no checkpoint in {model_dir} is intact ({_listed_by_name(damaged)}); "
            "restore one from a copy, or move them away to start anew"
        )
    return None


def check_files(path: Path, ranks: Ranks | None) -> None:
    """Checks that the checkpoint's files are as they were written; on every rank, or alone.

    Raises:
        ValueError: They are not, or there is no checkpoint; on every rank.
    """
    problems = _damage(path, ranks)
    if problems:
        raise ValueError(f"checkpoint {path} is damaged: {listed(problems)}")


def prune(model_dir: Path, *, keep: int, protect: set[int]) -> None:
    """Deletes all but the ``keep`` newest checkpoints (0: keeps all) and the steps in ``protect``.

    Call it on one rank.
    """
    for leftover in model_dir.glob(".model.ckpt-*.deleted"):
        shutil.rmtree(leftover)
    for step in steps(model_dir)[:-keep]:
        if step not in protect:
            path = checkpoint_path(model_dir, step)
            # Renamed first: half deleted it must not be taken for a checkpoint.
            shutil.rmtree(path.rename(path.with_name(f".{path.name}.deleted")))


def read_position(path: Path) -> Position:
    """Returns where the training that wrote the checkpoint stood.

    Raises:
        ValueError: There is no checkpoint, or it is damaged.
    """
    _check_exists(path)
    try:
        data_position = json.loads((path / DATA_FILE).read_text())
        content = json.loads((path / STATE_FILE).read_text())
        return Position(
            step=content["step"],
            epoch=data_position["epoch"],
            consumed={int(window): rows for window, rows in data_position["consumed"].items()},
            state=content["state"],
        )
    except (OSError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"checkpoint {path} is damaged: {error!r}") from error


def listed(problems: list[str]) -> str:
    """Returns the first problems in a line, and how many more there are."""
    more = f"; and {len(problems) - 10} more" if len(problems) > 10 else ""
    return "; ".join(problems[:10]) + more


def _damage(path: Path, ranks: Ranks | None) -> list[str]:
    _check_exists(path)
    if ranks is None:
        return manifest.damage(path, rank=0, world_size=1)
    of_ranks: list[Any] = [None] * ranks.world_size
    mine = manifest.damage(path, rank=ranks.rank, world_size=ranks.world_size)
    dist.all_gather_object(of_ranks, mine, group=ranks.control)
    # Ranks that cannot read the manifest say so alike.
    return sorted({problem for problems in of_ranks for problem in problems})


def _check_exists(path: Path) -> None:
    if not path.is_dir():
        raise ValueError(f"there is no checkpoint {path}")


def _set_aside(damaged: Mapping[str, str], intact: Path) -> None:
    if not damaged:
        return
    for name in damaged:
        aside = intact.with_name(f"{name}.damaged")
        if aside.exists():
            shutil.rmtree(aside)
        intact.with_name(name).rename(aside)
    log.warning(
        "DAMAGED CHECKPOINTS in %s: %s. Going on from %s; what was trained after it is lost. "
        "They are kept as model.ckpt-<step>.damaged; nothing needs them.",
        intact.parent,
        _listed_by_name(damaged),
        intact.name,
    )


def _listed_by_name(damaged: Mapping[str, str]) -> str:
    return "; ".join(f"{name}: {problems}" for name, problems in damaged.items())
