"""What TensorBoard gets of parameters and gradients, measured with every log line."""

from collections.abc import Collection

import torch
import torch.distributed as dist
from torchrec.distributed.model_parallel import DistributedModelParallel

from tzrec_core.distributed.ranks import Ranks
from tzrec_core.histogram import Histogram, histogram
from tzrec_core.optim.dense import dense_parameters
from tzrec_core.optim.stepping import Stepper
from tzrec_core.tracking import TensorBoardLogger
from tzrec_core.training.progress import Progress

_OF_GRADIENTS = {"global_gradient_norm", "gradient_norm", "gradient"}


class Summaries:
    """Measures what it is told to, and nothing between two log lines."""

    def __init__(
        self,
        names: Collection[str],
        model: DistributedModelParallel,
        stepper: Stepper,
        progress: Progress,
        ranks: Ranks,
        *,
        every: int,
        tensorboard: TensorBoardLogger | None,
    ) -> None:
        """Watches the gradients of ``stepper`` if it has to.

        Args:
            names: As in ``tensorboard_summaries``; those of losses and rates are not for here.
            model: From ``distributed.sharding.shard``.
            stepper: Of the model.
            progress: Of the training; read with every update.
            ranks: From ``process_group``.
            every: Steps between log lines.
            tensorboard: None on ranks other than 0.
        """
        self._names = set(names)
        self._model = model
        self._dense = dense_parameters(model)
        self._progress = progress
        self._ranks = ranks
        self._every = every
        self._tensorboard = tensorboard
        self._due = self._next_log_step(progress.step)
        # Dense gradients are the same on every rank.
        if tensorboard is not None and self._names & _OF_GRADIENTS:
            stepper.before_update = self._gradients

    def log(self) -> None:
        """Writes what is measured with a log line; call it on every rank."""
        if "parameter" not in self._names:
            return
        step, weights = self._progress.step, dict(self._model.named_parameters())
        for name, weight in weights.items():
            shown = histogram(weight)
            if name not in self._dense:
                shown = self._of_all_ranks(shown)
            if self._tensorboard is not None:
                self._tensorboard.log_histogram(f"parameter/{name}", shown, step)

    def _of_all_ranks(self, mine: Histogram) -> Histogram:
        if self._ranks.world_size == 1:
            return mine
        sums = torch.cat([mine.counts, mine.moments])
        dist.all_reduce(sums, group=self._ranks.control)
        dist.all_reduce(mine.extremes, dist.ReduceOp.MIN, group=self._ranks.control)
        counts, moments = sums.split([len(mine.counts), len(mine.moments)])
        return Histogram(counts, moments, mine.extremes)

    def _gradients(self) -> None:
        """Measures the gradients of the first update in or after a step with a log line."""
        step = self._progress.step + 1
        if step < self._due:
            return
        self._due = self._next_log_step(step)
        gradients = {n: weight.grad for n, weight in self._dense.items() if weight.grad is not None}
        norms = {
            name: float(torch.linalg.vector_norm(gradient, dtype=torch.float64))
            for name, gradient in gradients.items()
        }
        assert self._tensorboard is not None
        values = {}
        if "global_gradient_norm" in self._names:
            values["global_gradient_norm"] = sum(norm**2 for norm in norms.values()) ** 0.5
        if "gradient_norm" in self._names:
            values |= {f"gradient_norm/{name}": norm for name, norm in norms.items()}
        self._tensorboard.log(values, step)
        if "gradient" in self._names:
            for name, gradient in gradients.items():
                self._tensorboard.log_histogram(f"gradient/{name}", histogram(gradient), step)

    def _next_log_step(self, step: int) -> int:
        return (step // self._every + 1) * self._every
