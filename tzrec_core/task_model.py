"""A model with its tasks: what it predicts, and the loss to minimise."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tzrec_core.batch import Batch
from tzrec_core.models.rank_model import RankModel
from tzrec_core.optim.loss_scale import LossScale
from tzrec_core.optim.pareto import ParetoBalance
from tzrec_core.tasks import Logits, Task, predictions, task_losses

Losses = dict[str, Tensor]
Predictions = dict[str, Tensor]
StepOutput = tuple[Losses, Predictions, Batch]

TOTAL = "total"
"""What the sum of all losses is called among them."""


class Scoring(nn.Module):
    """What tasks make of logits; a module because the GPU's train pipeline traces the model.

    Tracing stops at modules without embedding tables, so nothing in here needs to be traceable.

    Attributes:
        tasks: All tasks of the model.
        loss_scale: What the loss to minimise is multiplied by; None: by nothing.
        balance: What weighs the tasks while training, beside their own weights; None: nothing.
    """

    def __init__(self, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.tasks = tuple(tasks)
        self.loss_scale: LossScale | None = None
        self.balance: ParetoBalance | None = None

    def forward(self, logits: Logits, batch: Batch) -> tuple[Tensor, StepOutput]:
        losses: Losses = {}
        of_tasks: list[Tensor] = []
        for index, task in enumerate(self.tasks):
            # Rows that are only to be scored come without labels.
            if task.label in batch.labels:
                normalizer = None if batch.normalizer is None else batch.normalizer[index]
                of_task = task_losses(task, task.logits_of(logits), batch, normalizer=normalizer)
                losses |= of_task
                of_tasks.append(torch.stack(list(of_task.values())).sum() * task.weight)
        scores = predictions(self.tasks, _detached(logits))
        if not of_tasks:
            return batch.dense.new_zeros(()), ({}, scores, batch)
        joint = torch.stack(of_tasks)
        total, objective = self._weighted(joint, batch)
        losses[TOTAL] = total
        detached = {name: loss.detach() for name, loss in losses.items()}
        return objective, (detached, scores, batch)

    def _weighted(self, of_tasks: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
        """Returns the sum of [number of tasks] losses, and what of it the batch is to minimise."""
        shared = of_tasks if batch.share is None else of_tasks * batch.share
        if self.loss_scale is not None:
            shared = shared * self.loss_scale.scale
        if self.balance is None or not (self.training and torch.is_grad_enabled()):
            return of_tasks.sum(), shared.sum()
        weights = self.balance.weights(shared)
        if weights is not None:
            return (of_tasks * weights).sum(), (shared * weights).sum()
        # Without weights nothing may be learned. With a loss scale the step is left out, as its
        # gradients are not finite; else the training ends because its loss is not.
        total = of_tasks.mean() if self.loss_scale is not None else of_tasks.sum() * torch.nan
        return total, shared.sum() * torch.nan


class TaskModel(nn.Module):
    """A model with its tasks: scores a batch and says how wrong it was."""

    def __init__(self, model: RankModel, tasks: Sequence[Task]) -> None:
        super().__init__()
        self.model = model
        self.scoring = Scoring(tasks)

    def forward(self, batch: Batch) -> tuple[Tensor, StepOutput]:
        """Returns the 0-d loss to minimise and, detached, (losses, predictions, batch).

        The losses are those of each task, averaged over its rows without the task's weight, and
        ``TOTAL``, their weighted sum.
        """
        objective, output = self.scoring(self.model(batch), batch)
        return objective, output


def _detached(logits: Logits) -> Logits:
    if isinstance(logits, Tensor):
        return logits.detach()
    return {name: of_task.detach() for name, of_task in logits.items()}
