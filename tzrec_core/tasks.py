"""Tasks: what is predicted of a label, and the losses that train it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from tzrec_core.batch import Batch
from tzrec_core.config_tasks import task_configs
from tzrec_core.losses.build import Loss, build_loss
from tzrec_core.protos import tower_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

Logits = Tensor | Mapping[str, Tensor]


@dataclass(frozen=True)
class TaskSpace:
    """The rows that a task is about, such as clicks for conversions, and what rows weigh.

    Attributes:
        label: Name of the label that is > 0 in the task's space.
        weight_in: What the weights of its rows are multiplied by.
        weight_out: What those of all other rows are multiplied by.
    """

    label: str
    weight_in: float
    weight_out: float


@dataclass(frozen=True)
class Task:
    """What is predicted, and what trains it.

    Attributes:
        label: Name of the label.
        sample_weight: Name of the sample weight, None if every row weighs 1.
        num_class: Number of logits; 1 for a probability or a value.
        losses: Added up for training.
        tower: Name of its tower; None for the task of a model with one.
        weight: What its losses are multiplied by in the sum of all tasks.
        space: None if all rows count alike.
        least_share: The least part that Pareto-efficient weights leave to its losses.
    """

    label: str
    sample_weight: str | None
    num_class: int
    losses: tuple[Loss, ...]
    tower: str | None = None
    weight: float = 1.0
    space: TaskSpace | None = None
    least_share: float = 0.0

    @property
    def suffix(self) -> str:
        """What follows the names of its predictions, losses and metrics."""
        return "" if self.tower is None else f"_{self.tower}"

    @property
    def is_classifier(self) -> bool:
        """Whether the label is a class, and logits make probabilities."""
        return any(loss.name != "l2_loss" for loss in self.losses)

    @property
    def is_regressor(self) -> bool:
        """Whether the logit is a predicted value."""
        return any(loss.name == "l2_loss" for loss in self.losses)

    @property
    def probability(self) -> str | None:
        """The name of the prediction that is one probability per row, None if there is none."""
        if not self.is_classifier or self.num_class > 2:
            return None
        return ("probs" if self.num_class == 1 else "probs1") + self.suffix

    def logits_of(self, logits: Logits) -> Tensor:
        """Returns the task's [B, num_class] logits among those of its model."""
        if isinstance(logits, Tensor):
            return logits
        return logits[self.tower or ""]


def build_tasks(config: EasyRecConfig) -> tuple[Task, ...]:
    """Builds the tasks of a model: one for each tower, else one of the first of ``label_fields``.

    Raises:
        ValueError: No label, no loss, or losses that do not go with ``num_class``.
    """
    tasks = []
    for path, task in task_configs(config.model_config).items():
        losses = [build_loss(loss, num_class=task.num_class) for loss in task.losses]
        if not losses:
            raise ValueError(f"{path}.losses must have at least one loss, it is empty")
        if isinstance(task, tower_pb2.TaskTower):
            tasks.append(_tower_task(task, path, losses))
            continue
        labels, weights = config.data_config.label_fields, config.data_config.sample_weight_fields
        if not labels:
            raise ValueError("data_config.label_fields must name the label, it is empty")
        tasks.append(
            Task(
                label=labels[0],
                sample_weight=weights[0] if weights else None,
                num_class=task.num_class,
                losses=tuple(losses),
            )
        )
    return tuple(tasks)


def _tower_task(tower: tower_pb2.TaskTower, path: str, losses: Sequence[Loss]) -> Task:
    if not tower.label_name:
        raise ValueError(f"{path}.label_name must name the label, it is empty")
    space = None
    if tower.HasField("task_space_indicator_label"):
        space = TaskSpace(
            label=tower.task_space_indicator_label,
            weight_in=tower.in_task_space_weight,
            weight_out=tower.out_task_space_weight,
        )
    return Task(
        label=tower.label_name,
        sample_weight=tower.sample_weight_name or None,
        num_class=tower.num_class,
        losses=tuple(losses),
        tower=tower.tower_name,
        weight=tower.weight,
        space=space,
        least_share=tower.pareto_min_loss_weight,
    )


def predictions(tasks: Sequence[Task], logits: Logits) -> dict[str, Tensor]:
    """Returns what the tasks make of the model's output.

    Args:
        tasks: All tasks of the model.
        logits: [B, num_class], of several tasks by the tower's name.

    Returns:
        For each task, under names that end in its suffix: ``logits`` [B, num_class]; of a
        classifier ``probs``, [B] if num_class is 1, else [B, num_class], with ``probs1`` [B], those
        of class 1, if there are two; of a regressor ``y`` [B]. All float32.
    """
    outputs: dict[str, Tensor] = {}
    for task in tasks:
        of_task = _predictions_of(task, task.logits_of(logits).float())
        outputs |= {name + task.suffix: values for name, values in of_task.items()}
    return outputs


def _predictions_of(task: Task, logits: Tensor) -> dict[str, Tensor]:
    outputs = {"logits": logits}
    if task.is_classifier and task.num_class == 1:
        outputs["probs"] = torch.sigmoid(logits.squeeze(1))
    elif task.is_classifier:
        outputs["probs"] = torch.softmax(logits, dim=1)
        if task.num_class == 2:
            outputs["probs1"] = outputs["probs"][:, 1]
    if task.is_regressor:
        outputs["y"] = logits.squeeze(1)
    return outputs


def task_losses(
    task: Task, logits: Tensor, batch: Batch, *, normalizer: Tensor | None
) -> dict[str, Tensor]:
    """Returns each loss of the batch, 0-d: sum(weight * loss) / normalizer, by its name.

    Without a normalizer the divisor is the sum of the batch's weights. A batch without rows or
    without weight has loss 0, connected to ``logits``. Labels must have been ``checked``.

    Args:
        task: The task.
        logits: [B, num_class], its own.
        batch: Its labels, weights and sessions count.
        normalizer: 0-d.
    """
    weight = row_weights(task, batch)
    divisor = weight.sum() if normalizer is None else normalizer
    divisor = divisor.where(divisor > 0, 1.0)
    target = batch.labels[task.label]
    return {
        loss.name + task.suffix: (loss(logits, target, batch) * weight).sum() / divisor
        for loss in task.losses
    }


def row_weights(task: Task, batch: Batch) -> Tensor:
    """Returns [B] float32: what each row weighs in the losses of the task."""
    if task.sample_weight is None:
        weight = torch.ones_like(batch.labels[task.label], dtype=torch.float32)
    else:
        weight = batch.sample_weights[task.sample_weight]
    if task.space is None:
        return weight
    is_inside = batch.labels[task.space.label] > 0
    return weight * torch.where(is_inside, task.space.weight_in, task.space.weight_out)


def loss_weights(tasks: Sequence[Task], batch: Batch) -> Tensor:
    """Returns [number of tasks] float64: the sums of their ``row_weights``."""
    sums = [row_weights(task, batch).sum(dtype=torch.float64) for task in tasks]
    return torch.stack(sums)


def checked(batches: Iterator[Batch], tasks: Sequence[Task]) -> Iterator[Batch]:
    """Passes batches on whose labels the losses can take; those must still be on the CPU.

    Looking at labels on a GPU would make every step wait for it.

    Raises:
        ValueError: A classifier's label is not one of 0 .. num_class - 1, or not 0 or 1 if
            num_class is 1; a regressor's is NaN or infinite.
    """
    for batch in batches:
        for task in tasks:
            _check_labels(task, batch)
        yield batch


def _check_labels(task: Task, batch: Batch) -> None:
    labels = batch.labels[task.label]
    if task.is_classifier:
        num_labels = max(2, task.num_class)
        usable = (labels >= 0) & (labels < num_labels) & (labels == labels.floor())
        allowed = "0 or 1" if num_labels == 2 else f"an integer from 0 to {num_labels - 1}"
    else:
        usable = labels.isfinite()
        allowed = "finite"
    if not usable.all():
        value = labels[~usable][0].item()
        of_tower = "" if task.tower is None else f" for tower {task.tower!r}"
        raise ValueError(f"label {task.label!r} must be {allowed}{of_tower}, got {value}")
