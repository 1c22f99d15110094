"""How far a training has come, and what happened since its last log line."""

import math
import time
from dataclasses import dataclass, field

import torch
import torch.distributed as dist

from tzrec_core.assembly import StepOutput
from tzrec_core.distributed import Ranks
from tzrec_core.tasks import TrainMetrics


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


class Window:
    """Losses, train metrics and speed of this rank's steps since the last log line."""

    def __init__(self, ranks: Ranks, metrics: TrainMetrics) -> None:
        self._ranks = ranks
        self._metrics = metrics
        self._restart()

    def add(self, output: StepOutput) -> None:
        """Adds one step, without waiting for the device or for other ranks."""
        losses, predictions, batch = output
        for name, loss in losses.items():
            self._losses[name] = self._losses.get(name, 0) + loss.double()
        self._num_steps += 1
        self._num_rows += len(batch)
        self._metrics.update(predictions, batch)

    def close(self, step: int) -> dict[str, float]:
        """Returns the means over the window and all ranks, each of which must call; starts anew.

        Raises:
            FloatingPointError: A loss is no longer finite; on every rank.
        """
        losses = self.mean_losses(step)
        rows = torch.tensor(self._num_rows)
        dist.all_reduce(rows, group=self._ranks.control)
        values = {
            "samples_per_second": int(rows) / (time.perf_counter() - self._started),
            **{f"loss/{name}": loss for name, loss in losses.items()},
            "loss/total": sum(losses.values()),
            **{f"metric/{name}": value for name, value in self._metrics.compute().items()},
        }
        self._restart()
        return values

    def mean_losses(self, step: int) -> dict[str, float]:
        """Returns every loss over the rows of all ranks, averaged over the steps so far.

        Raises:
            FloatingPointError: One is NaN or infinite; on every rank.
        """
        if not self._losses:
            return {}
        # A rank's loss is its part of the mean over all rows, times the number of ranks.
        sums = torch.stack(list(self._losses.values())).cpu()
        dist.all_reduce(sums, group=self._ranks.control)
        means = sums / (self._ranks.world_size * self._num_steps)
        losses = dict(zip(self._losses, means.tolist(), strict=True))
        for name, loss in losses.items():
            if not math.isfinite(loss):
                raise FloatingPointError(
                    f"the loss {name} became {loss} in the {self._num_steps} steps up to {step}"
                )
        return losses

    def pause(self, seconds: float) -> None:
        """Leaves time that was not spent on training out of the speed."""
        self._started += seconds

    def _restart(self) -> None:
        self._losses: dict[str, torch.Tensor] = {}
        self._num_steps = 0
        self._num_rows = 0
        self._started = time.perf_counter()
