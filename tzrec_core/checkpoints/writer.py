"""Writes checkpoints: aside, hashed, onto the disk, and only then under their name."""

import copy
import dataclasses
import logging
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.checkpoints import manifest, saved_plan, tensor_files
from tzrec_core.checkpoints.checkpoint import (
    AVERAGES_FOLDER,
    DATA_FILE,
    LATEST_FILE,
    PLAN_FILE,
    STATE_FILE,
    checkpoint_path,
    latest,
)
from tzrec_core.checkpoints.manifest import FileRecord
from tzrec_core.distributed.ranks import Ranks, on_rank_0
from tzrec_core.optim.state import check_state, named_state

log = logging.getLogger(__name__)

_INCOMPLETE = ".incomplete"
_REPLACED = ".replaced"


@dataclass(frozen=True)
class Content:
    """What a checkpoint consists of.

    Attributes:
        step: Number of steps taken.
        tensors: Named tensors by the folder they go to; each rank has its part of them.
        files: What goes into JSON files, by their names; rank 0's is written.
    """

    step: int
    tensors: dict[str, dict[str, Tensor]]
    files: dict[str, Any]


def collect(
    step: int,
    ranks: Ranks,
    *,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer,
    epoch: int,
    consumed: Mapping[int, int],
    state: Mapping[str, Any],
    averages: Mapping[str, Tensor] | None = None,
) -> Content:
    """Returns the content of a checkpoint; its tensors are the model's own. Call it on every rank.

    Args:
        step: Number of steps taken.
        ranks: From ``distributed.ranks.process_group``.
        model: From ``distributed.sharding.shard``.
        optimizer: From ``optim.build.build_optimizer``, after at least one step.
        epoch: Number of epochs completed.
        consumed: Rows used of each window of the data in the unfinished epoch, by this rank; a
            window that several ranks name counts once.
        state: What else a restart needs; must survive JSON.
        averages: Of dense parameters, the same on every rank; None if there are none.

    Raises:
        ValueError: A parameter has never had a gradient.
    """
    check_state(optimizer)
    tensors = {"model": model.state_dict(), "optimizer": named_state(optimizer)}
    if averages is not None:
        tensors[AVERAGES_FOLDER] = dict(averages)
    return Content(
        step=step,
        tensors=tensors,
        files={
            PLAN_FILE: saved_plan.describe(model),
            DATA_FILE: {"epoch": epoch, "consumed": _union(consumed, ranks)},
            STATE_FILE: {"step": step, "state": dict(state)},
        },
    )


def write(model_dir: Path, content: Content, ranks: Ranks) -> Path:
    """Writes a checkpoint and returns its folder; call it on every rank.

    The folder appears under its name when it is complete and on the disk, in place of an older one.
    What an interrupted write has left behind is deleted, and so is what a failing one leaves.

    Args:
        model_dir: A folder that all ranks see.
        content: From ``collect``.
        ranks: Who writes together.

    Raises:
        OSError: The checkpoint cannot be written; on every rank.
    """
    path = checkpoint_path(model_dir, content.step)
    aside = path.with_name(f".{path.name}{_INCOMPLETE}")
    try:
        on_rank_0(ranks, lambda: _begin(aside))
        mine: dict[str, FileRecord] = {}
        for folder, tensors in content.tensors.items():
            written = tensor_files.write(aside / folder, tensors, ranks.control)
            mine.update({f"{folder}/{name}": record for name, record in written.items()})
        files = _of_all_ranks(mine, ranks)
        on_rank_0(ranks, lambda: _finish(path, aside, content, files))
    except Exception as error:
        if ranks.rank == 0:
            shutil.rmtree(aside, ignore_errors=True)
            with suppress(OSError):
                _marker(model_dir).unlink()
        if not isinstance(error, OSError):
            raise
        newest = latest(model_dir)
        stays = "there is no earlier one" if newest is None else f"{newest.name} stays the newest"
        raise OSError(f"cannot save checkpoint {path}: {error}; {stays}") from error
    return path


class CheckpointWriter:
    """Writes the checkpoints of a training, at once or while it goes on, one at a time.

    In the background it works on a copy in host memory, made before ``save`` returns, and talks to
    the other ranks in a group of its own: the training computes what it would compute without it.
    As a context manager it waits for the last checkpoint.
    """

    def __init__(self, model_dir: Path, ranks: Ranks, *, in_background: bool) -> None:
        """Makes the writer; call it on every rank."""
        self._model_dir = model_dir
        self._ranks = ranks
        self._executor: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None
        if in_background:
            self._ranks = dataclasses.replace(ranks, control=dist.new_group(backend="gloo"))
            self._executor = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")

    def save(self, content: Content) -> None:
        """Writes a checkpoint, or begins to; call it on every rank.

        Raises:
            OSError: This checkpoint, or the one before it, cannot be written; on every rank.
        """
        self.wait()
        if self._executor is None:
            self._write(content)
        else:
            self._pending = self._executor.submit(self._write, _copied(content))

    @property
    def is_busy(self) -> bool:
        """Whether a checkpoint is being written."""
        return self._pending is not None and not self._pending.done()

    def wait(self) -> None:
        """Returns when the last checkpoint is complete; call it on every rank.

        Raises:
            OSError: It cannot be written; on every rank.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            pending.result()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self.wait()
        except Exception:
            if error is None:
                raise
            log.exception("While training was failing, so did the checkpoint before")
        finally:
            if self._executor is not None:
                self._executor.shutdown()

    def _write(self, content: Content) -> None:
        started = time.perf_counter()
        path = write(self._model_dir, content, self._ranks)
        if self._ranks.rank == 0:
            log.info("Saved %s in %.1f s", path.name, time.perf_counter() - started)


def _copied(content: Content) -> Content:
    with torch.no_grad():
        tensors = {
            folder: {name: tensor.to("cpu", copy=True) for name, tensor in named.items()}
            for folder, named in content.tensors.items()
        }
    return dataclasses.replace(content, tensors=tensors, files=copy.deepcopy(content.files))


def _of_all_ranks(mine: dict[str, FileRecord], ranks: Ranks) -> dict[str, FileRecord]:
    of_ranks: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(of_ranks, mine, group=ranks.control)
    return {name: record for files in of_ranks for name, record in files.items()}


def _union(consumed: Mapping[int, int], ranks: Ranks) -> dict[int, int]:
    of_ranks: list[Any] = [None] * ranks.world_size
    dist.all_gather_object(of_ranks, dict(consumed), group=ranks.control)
    union: dict[int, int] = {}
    for windows in of_ranks:
        for window, rows in windows.items():
            union[window] = max(rows, union.get(window, 0))
    return union


def _begin(aside: Path) -> None:
    for suffix in (_INCOMPLETE, _REPLACED):
        for leftover in aside.parent.glob(f".model.ckpt-*{suffix}"):
            shutil.rmtree(leftover)
    aside.mkdir(parents=True)


def _marker(model_dir: Path) -> Path:
    return model_dir / f".{LATEST_FILE}{_INCOMPLETE}"


def _finish(path: Path, aside: Path, content: Content, files: dict[str, FileRecord]) -> None:
    for name, file_content in content.files.items():
        files[name] = manifest.write_json(aside / name, file_content)
    manifest.write(aside, files)
    for folder in content.tensors:
        manifest.sync_folder(aside / folder)
    manifest.sync_folder(aside)
    marker = _marker(path.parent)
    marker.write_text(path.name + "\n")
    replaced = None
    if path.exists():
        replaced = path.rename(path.with_name(f".{path.name}{_REPLACED}"))
    aside.rename(path)
    marker.rename(path.with_name(LATEST_FILE))
    manifest.sync_folder(path.parent)
    if replaced is not None:
        shutil.rmtree(replaced)
