"""A task: one label, the losses that train on it and the metrics that judge it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.batch import Batch
from tzrec_core.config_check_task import metric_names
from tzrec_core.losses.build import Loss, build_loss
from tzrec_core.metrics.build import build_metric, build_train_metric, grouping_key
from tzrec_core.metrics.decay import DecayedMetric
from tzrec_core.metrics.mean import WeightedMean
from tzrec_core.protos import metric_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig


@dataclass(frozen=True)
class Task:
    """What is predicted, and what trains it.

    Attributes:
        label: Name of the label.
        sample_weight: Name of the sample weight, None if every row weighs 1.
        num_class: Number of logits; 1 for a probability or a value.
        losses: Added up for training.
    """

    label: str
    sample_weight: str | None
    num_class: int
    losses: tuple[Loss, ...]

    @property
    def is_classifier(self) -> bool:
        """Whether the label is a class, and logits make probabilities."""
        return any(loss.name != "l2_loss" for loss in self.losses)

    @property
    def is_regressor(self) -> bool:
        """Whether the logit is a predicted value."""
        return any(loss.name == "l2_loss" for loss in self.losses)


def build_task(config: EasyRecConfig) -> Task:
    """Builds the task of a model with one label: the first of ``label_fields``.

    Raises:
        ValueError: No label, no loss, or losses that do not go with ``num_class``.
    """
    labels, weights = config.data_config.label_fields, config.data_config.sample_weight_fields
    num_class = config.model_config.num_class
    losses = [build_loss(loss, num_class=num_class) for loss in config.model_config.losses]
    if not labels:
        raise ValueError("data_config.label_fields must name the label, it is empty")
    if not losses:
        raise ValueError("model_config.losses must have at least one loss, it is empty")
    return Task(
        label=labels[0],
        sample_weight=weights[0] if weights else None,
        num_class=num_class,
        losses=tuple(losses),
    )


def predictions(task: Task, logits: Tensor) -> dict[str, Tensor]:
    """Returns what the task makes of the model's output.

    Args:
        task: The task.
        logits: [B, num_class].

    Returns:
        ``logits`` [B, num_class]; of a classifier ``probs``, [B] if num_class is 1, else
        [B, num_class], with ``probs1`` [B], those of class 1, if there are two; of a regressor
        ``y`` [B]. All float32.
    """
    logits = logits.float()
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


def task_losses(task: Task, logits: Tensor, batch: Batch) -> dict[str, Tensor]:
    """Returns each loss of the batch, 0-d: sum(weight * loss) / normalizer.

    The divisor is ``batch.normalizer``, or the sum of the batch's weights if that is None. A batch
    without rows or without weight has loss 0, connected to ``logits``. Labels must have been
    ``checked``.
    """
    target, weight = batch.labels[task.label], _weights(task, batch)
    divisor = weight.sum() if batch.normalizer is None else batch.normalizer
    divisor = divisor.where(divisor > 0, 1.0)
    return {
        loss.name: (loss.function(logits, target) * weight).sum() / divisor for loss in task.losses
    }


def checked(batches: Iterator[Batch], task: Task) -> Iterator[Batch]:
    """Passes batches on whose labels the losses can take; those must still be on the CPU.

    Looking at labels on a GPU would make every step wait for it.

    Raises:
        ValueError: A classifier's label is not one of 0 .. num_class - 1, or not 0 or 1 if
            num_class is 1; a regressor's is NaN or infinite.
    """
    for batch in batches:
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
        raise ValueError(f"label {task.label!r} must be {allowed}, got {value}")


class TaskMetrics:
    """The metrics of evaluation, and the losses as metrics, over all rows since ``reset``."""

    def __init__(self, config: EasyRecConfig) -> None:
        """Raises ValueError for a metric that is not supported or does not suit the task."""
        self._task = build_task(config)
        model_config = config.model_config
        names = metric_names(model_config)
        self._metrics = {
            name: _JudgedMetric(metric, self._task)
            for name, metric in zip(names, model_config.metrics, strict=True)
        }
        self._losses = {loss.name: WeightedMean() for loss in self._task.losses}

    def to(self, device: torch.device) -> "TaskMetrics":
        """Moves the state to the device of the predictions; returns itself."""
        for judged in self._metrics.values():
            judged.metric.to(device)
        for mean in self._losses.values():
            mean.to(device)
        return self

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> None:
        """Adds the rows of a batch, whose labels must have been ``checked``; no communication."""
        for judged in self._metrics.values():
            judged.update(predictions, batch)
        target, weight = batch.labels[self._task.label], _weights(self._task, batch)
        for loss in self._task.losses:
            self._losses[loss.name].update(loss.function(predictions["logits"], target), weight)

    def compute(self) -> dict[str, float]:
        """Returns every metric and loss over the rows of all ranks, each of which must call.

        Raises:
            ValueError: Predictions are NaN, or labels are not what a metric takes.
        """
        values = {name: judged.metric.compute() for name, judged in self._metrics.items()}
        values |= {name: mean.compute() for name, mean in self._losses.items()}
        return {name: float(value) for name, value in values.items()}

    def reset(self) -> None:
        """Forgets all rows."""
        for judged in self._metrics.values():
            judged.metric.reset()
        for mean in self._losses.values():
            mean.reset()


class TrainMetrics:
    """The metrics of training, in which old rows fade."""

    def __init__(self, config: EasyRecConfig) -> None:
        """Raises ValueError for a metric that is not supported or does not suit the task."""
        self._task = build_task(config)
        self._metrics: dict[str, DecayedMetric] = {}
        for metric in config.model_config.train_metrics:
            kind = metric.WhichOneof("metric") or ""
            if kind in self._metrics:
                raise ValueError(f"model_config.train_metrics has {kind} more than once")
            self._metrics[kind] = build_train_metric(metric)
        self._output = _probability(self._task, "train_metrics.auc") if self._metrics else ""

    def to(self, device: torch.device) -> "TrainMetrics":
        """Moves the state to the device of the predictions; returns itself."""
        for metric in self._metrics.values():
            metric.to(device)
        return self

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> None:
        """Counts a step and adds its rows; call it for empty batches too. No communication."""
        for metric in self._metrics.values():
            metric.update(predictions[self._output], batch.labels[self._task.label])

    def compute(self) -> dict[str, float]:
        """Returns every metric over the rows of all ranks, each of which must call."""
        return {name: float(metric.compute()) for name, metric in self._metrics.items()}


class _JudgedMetric:
    """A metric, and which outputs, label and groups it is given."""

    def __init__(self, config: metric_pb2.MetricConfig, task: Task) -> None:
        self.metric: Metric = build_metric(config, num_class=task.num_class)
        self._label = config.label_name or task.label
        self._key = grouping_key(config)
        self._output = _output(config, task)

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> None:
        keys: Sequence[Tensor] = () if self._key is None else (batch.ids(self._key),)
        self.metric.update(predictions[self._output], batch.labels[self._label], *keys)


def _output(config: metric_pb2.MetricConfig, task: Task) -> str:
    """Returns the name of the prediction that a metric judges."""
    kind = config.WhichOneof("metric") or ""
    match kind:
        case "accuracy" if task.is_classifier:
            return "probs"
        case "accuracy":
            raise ValueError("accuracy needs a cross entropy loss, there is only l2_loss")
        case "auc" if config.auc.thresholds > 0:
            return _probability(task, kind)
        case "auc" | "grouped_auc" if task.is_classifier:
            return _probability(task, kind)
        case _:
            return "y" if task.is_regressor else _probability(task, kind)


def _probability(task: Task, metric: str) -> str:
    """Returns the name of the prediction that is one probability per row."""
    if not task.is_classifier:
        raise ValueError(
            f"{metric} bins probabilities, but l2_loss makes none; use auc with thresholds: 0"
        )
    if task.num_class > 2:
        raise ValueError(f"{metric} needs num_class 1 or 2, got {task.num_class}")
    return "probs" if task.num_class == 1 else "probs1"


def _weights(task: Task, batch: Batch) -> Tensor:
    if task.sample_weight is None:
        return torch.ones_like(batch.labels[task.label], dtype=torch.float32)
    return batch.sample_weights[task.sample_weight]
