"""How far a training has come, and what happened since its last log line."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch.profiler import record_function

from tzrec_core.batch import Batch
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.task_metrics import TrainMetrics
from tzrec_core.task_model import StepOutput
from tzrec_core.training.loss_watch import LossWatch, UsedRows
from tzrec_core.training.memory import memory_in_use


@dataclass
class Progress:
    """Where a training stands.

    Attributes:
        step: Steps completed; the checkpoint after the first one is ``model.ckpt-1``.
        epoch: Epochs completed.
        consumed: Rows used of each window of the data in the unfinished epoch: by all ranks up
            to the start of this process, by this rank since.
    """

    step: int = 0
    epoch: int = 0
    consumed: dict[int, int] = field(default_factory=dict)

    def advance(self, position: Mapping[int, int]) -> UsedRows:
        """Counts a step with a batch of this ``position``; returns which rows that had."""
        rows = {window: (self.consumed.get(window, 0), stop) for window, stop in position.items()}
        self.step += 1
        self.consumed.update(position)
        return UsedRows(self.step, self.epoch, rows)


class Window:
    """Losses, train metrics, speed and memory since the last log line, of all ranks together.

    Args:
        ranks: From ``process_group``.
        metrics: Are updated with every step.
        where: See ``LossWatch``.
    """

    def __init__(
        self,
        ranks: Ranks,
        metrics: TrainMetrics,
        where: Callable[[int, Mapping[int, tuple[int, int]]], str],
    ) -> None:
        self._ranks = ranks
        self._metrics = metrics
        self._losses = LossWatch(ranks, where)
        self._restart_clock()

    def timed(self, batches: Iterator[Batch]) -> Iterator[Batch]:
        """Passes batches on, and measures how long they keep the training waiting."""
        while True:
            started = time.perf_counter()
            with record_function("wait for the next batch"):
                batch = next(batches, None)
            self._waited += time.perf_counter() - started
            if batch is None:
                return
            yield batch

    def add(self, output: StepOutput, used: UsedRows) -> None:
        """Adds one step; every rank must call it for every step.

        Raises:
            FloatingPointError: See ``check``.
        """
        losses, predictions, batch = output
        self._losses.add(losses, used)
        self._num_rows += len(batch)
        self._metrics.update(predictions, batch)

    def check(self) -> None:
        """Checks that all losses so far were finite; call it on every rank.

        Raises:
            FloatingPointError: One was not; on every rank, with the first such step and its rows.
        """
        self._losses.check()

    def close(self) -> dict[str, float]:
        """Returns the means over the window and all ranks, each of which must call; starts anew.

        Raises:
            FloatingPointError: See ``check``.
        """
        losses = self._losses.means()
        elapsed = time.perf_counter() - self._started
        rows = torch.tensor(self._num_rows)
        dist.all_reduce(rows, group=self._ranks.control)
        memory = memory_in_use(self._ranks.device)
        largest = torch.tensor([self._waited / elapsed, *memory.values()])
        dist.all_reduce(largest, dist.ReduceOp.MAX, group=self._ranks.control)
        names = ["data_wait_share", *(f"memory/{name}" for name in memory)]
        values = {
            "samples_per_second": int(rows) / elapsed,
            **dict(zip(names, largest.tolist(), strict=True)),
            **{f"loss/{name}": loss for name, loss in losses.items()},
            **{f"metric/{name}": value for name, value in self._metrics.compute().items()},
        }
        self._losses.restart()
        self._restart_clock()
        return values

    def state(self) -> list[dict[str, Any]]:
        """Returns what ``restore`` needs, in a form that survives JSON: of all ranks, all call."""
        return self._losses.state()

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Goes on after the steps of a ``state``, of any number of ranks; their speed is lost."""
        self._losses.restore(state)
        self._restart_clock()

    def pause(self, seconds: float) -> None:
        """Leaves time that was not spent on training out of the speed."""
        self._started += seconds

    def _restart_clock(self) -> None:
        self._num_rows = 0
        self._waited = 0.0
        self._started = time.perf_counter()
