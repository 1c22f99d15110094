"""What judges tasks: the metrics of evaluation and of training."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from google.protobuf import text_format
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.batch import Batch
from tzrec_core.config_checks.metric import AnyMetricConfig, metric_name, metric_names
from tzrec_core.config_tasks import task_configs
from tzrec_core.metrics.build import build_metric, build_train_metric, grouping_key
from tzrec_core.metrics.decay import DecayedMetric
from tzrec_core.metrics.mean import WeightedMean
from tzrec_core.metrics.multiclass_auc import ExactMulticlassAUC
from tzrec_core.metrics.row_store import (
    GroupFormula,
    JudgedGroups,
    JudgedRows,
    RowFormula,
    RowStore,
)
from tzrec_core.metrics.row_store_on_disk import RowStoreOnDisk
from tzrec_core.protos import metric_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tasks import Task, build_tasks, row_weights

_MAX_ROWS_IN_MEMORY = 2**22  # about 1 GB while formulas are computed


class TaskMetrics:
    """The metrics of evaluation, and the losses as metrics, over all rows since ``reset``."""

    def __init__(self, config: EasyRecConfig, *, rows_folder: Path | None = None) -> None:
        """Builds the metrics; without a folder they are in memory, whatever the config says.

        Args:
            config: Its model, labels and ``eval_config`` count.
            rows_folder: Where the rows of exact metrics are kept: empty, shared by all ranks, and
                the caller's to remove.

        Raises:
            ValueError: A metric is not supported, or does not suit its task, or needs all rows in
                memory while ``eval_config.rows_on_disk`` is set.
        """
        self._tasks = build_tasks(config)
        self._on_disk = config.eval_config.rows_on_disk
        self._streaming: dict[str, _StreamingMetric] = {}
        self._of_rows: list[JudgedRows] = []
        self._of_groups: list[JudgedGroups] = []
        self._losses: dict[str, WeightedMean] = {}
        for judged in judged_metrics(config):
            self._add(judged)
        for task in self._tasks:
            for loss in task.losses:
                self._losses[loss.name + task.suffix] = WeightedMean()
        self._rows: RowStore | RowStoreOnDisk | None = None
        if (self._of_rows or self._of_groups) and rows_folder is not None:
            self._rows = RowStoreOnDisk(
                self._of_rows,
                self._of_groups,
                folder=rows_folder,
                max_rows_in_memory=_MAX_ROWS_IN_MEMORY,
            )
        elif self._of_rows or self._of_groups:
            self._rows = RowStore(self._of_rows, self._of_groups)

    def _add(self, judged: "JudgedMetric") -> None:
        name, output, label = judged.name, judged.output, judged.label
        if self._on_disk and _keeps_rows_in_memory(judged.built):
            raise ValueError(
                "eval_config.rows_on_disk is set, but this metric needs all rows in memory: "
                + text_format.MessageToString(judged.config, as_one_line=True)
            )
        columns = {"preds": f"preds:{output}", "label": f"label:{label}"}
        match judged.built:
            case RowFormula() as built:
                self._of_rows.append(JudgedRows(name, built, **columns))
            case GroupFormula() as built:
                self._of_groups.append(
                    JudgedGroups(name, built, **columns, key=f"key:{judged.key}")
                )
            case built:
                self._streaming[name] = _StreamingMetric(built, output, label)

    def to(self, device: torch.device) -> "TaskMetrics":
        """Moves the state to the device of the predictions; returns itself."""
        for part in self._parts():
            part.to(device)
        return self

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> None:
        """Adds the rows of a batch, whose labels must have been ``checked``; no communication."""
        for judged in self._streaming.values():
            judged.metric.update(predictions[judged.output], batch.labels[judged.label])
        if self._rows is not None:
            preds = {f"preds:{name}": values for name, values in predictions.items()}
            labels = {f"label:{name}": values for name, values in batch.labels.items()}
            keys = {f"key:{name}": values for name, values in batch.group_ids.items()}
            self._rows.update({**preds, **labels, **keys})
        for task in self._tasks:
            logits, target = predictions[f"logits{task.suffix}"], batch.labels[task.label]
            weight = row_weights(task, batch)
            for loss in task.losses:
                values = loss(logits, target, batch)
                self._losses[loss.name + task.suffix].update(values, weight)

    def compute(self) -> dict[str, float]:
        """Returns every metric and loss over the rows of all ranks, each of which must call.

        A metric of groups also gives ``<name>_group_coverage`` and ``<name>_row_coverage``, the
        shares of groups and of rows that it is computed from.

        Raises:
            ValueError: Predictions are NaN, or labels are not what a metric takes.
        """
        values = {name: float(judged.metric.compute()) for name, judged in self._streaming.items()}
        if self._rows is not None:
            values |= self._rows.compute()
        return values | {name: float(mean.compute()) for name, mean in self._losses.items()}

    def reset(self) -> None:
        """Forgets all rows."""
        for part in self._parts():
            part.reset()

    def _parts(self) -> list[Metric | RowStoreOnDisk]:
        parts: list[Metric | RowStoreOnDisk] = [j.metric for j in self._streaming.values()]
        parts += self._losses.values()
        return parts if self._rows is None else [*parts, self._rows]


@dataclass(frozen=True)
class _StreamingMetric:
    """A metric that adds up batches, and which output and label it is given."""

    metric: Metric
    output: str
    label: str


def _keeps_rows_in_memory(metric: Metric | RowFormula | GroupFormula) -> bool:
    if isinstance(metric, RowFormula):
        return metric.on_disk is None
    return isinstance(metric, ExactMulticlassAUC)


@dataclass(frozen=True)
class _TrainMetric:
    """A metric of training, what it is given, and the text of its config."""

    metric: DecayedMetric
    output: str
    label: str
    config: str


class TrainMetrics:
    """The metrics of training, in which old rows fade."""

    def __init__(self, config: EasyRecConfig) -> None:
        """Raises ValueError for a metric that is not supported or does not suit its task."""
        self._metrics: dict[str, _TrainMetric] = {}
        settings = task_configs(config.model_config)
        for task, (path, of_task) in zip(build_tasks(config), settings.items(), strict=True):
            for metric in of_task.train_metrics:
                name = metric_name(metric) + task.suffix
                if name in self._metrics:
                    raise ValueError(f"{path}.train_metrics has {metric_name(metric)} twice")
                self._metrics[name] = _TrainMetric(
                    metric=build_train_metric(metric, num_class=task.num_class),
                    output=_output(metric, task),
                    label=task.label,
                    config=text_format.MessageToString(metric, as_one_line=True),
                )

    def to(self, device: torch.device) -> "TrainMetrics":
        """Moves the state to the device of the predictions; returns itself."""
        for judged in self._metrics.values():
            judged.metric.to(device)
        return self

    def update(self, predictions: Mapping[str, Tensor], batch: Batch) -> None:
        """Counts a step and adds its rows; call it for empty batches too. No communication."""
        for judged in self._metrics.values():
            judged.metric.update(predictions[judged.output], batch.labels[judged.label])

    def compute(self) -> dict[str, float]:
        """Returns every metric over the rows of all ranks, each of which must call."""
        return {name: float(judged.metric.compute()) for name, judged in self._metrics.items()}

    def state_dict(self) -> dict[str, Any]:
        """Returns what the metrics need to go on, in a form that survives JSON.

        It is of all ranks, the same on each, and all must call.
        """
        return {
            name: {"config": judged.config, "sums": judged.metric.state_dict()}
            for name, judged in self._metrics.items()
        }

    def load_state_dict(self, state: Mapping[str, Any], *, num_steps: int) -> list[str]:
        """Goes on after ``num_steps`` steps, on any number of ranks.

        Returns the metrics that start anew, as there is no state of their config.
        """
        anew = []
        for name, judged in self._metrics.items():
            saved = state.get(name, {})
            if saved.get("config") == judged.config:
                judged.metric.load_state_dict(saved["sums"], num_steps=num_steps)
            else:
                judged.metric.load_state_dict(None, num_steps=num_steps)
                anew.append(name)
        return anew


@dataclass(frozen=True)
class JudgedMetric:
    """A metric of the config, and what it is computed from.

    Attributes:
        name: What evaluation calls it.
        config: Which metric it is.
        built: What computes it.
        task: The task that it judges.
        output: Name of the prediction.
        label: Name of the label.
        key: The grouping key; None if it does not group rows.
    """

    name: str
    config: metric_pb2.MetricConfig
    built: Metric | RowFormula | GroupFormula
    task: Task
    output: str
    label: str
    key: str | None


def judged_metrics(config: EasyRecConfig) -> list[JudgedMetric]:
    """Returns the metrics of evaluation, of all tasks.

    Raises:
        ValueError: A metric is not supported, or does not suit its task.
    """
    settings = task_configs(config.model_config).values()
    return [
        JudgedMetric(
            name=name,
            config=metric,
            built=build_metric(metric, num_class=task.num_class),
            task=task,
            output=_output(metric, task),
            label=metric.label_name or task.label,
            key=grouping_key(metric),
        )
        for task, of_task in zip(build_tasks(config), settings, strict=True)
        for name, metric in zip(metric_names(of_task), of_task.metrics, strict=True)
    ]


def _output(config: AnyMetricConfig, task: Task) -> str:
    """Returns the name of the prediction that a metric judges."""
    kind = config.WhichOneof("metric") or ""
    match kind:
        case "accuracy" | "recall_at_k" | "multiclass_auc" | "log_loss" | "normalized_entropy":
            if not task.is_classifier:
                raise ValueError(f"{kind} needs a cross entropy loss, there is only l2_loss")
            return f"probs{task.suffix}"
        case "auc" if config.auc.thresholds > 0:
            return _probability(task, kind)
        case "calibration_error":
            return _probability(task, kind)
        case "auc" | "grouped_auc" | "ndcg_at_k" | "calibration" if task.is_classifier:
            return _probability(task, kind)
        case _:
            return f"y{task.suffix}" if task.is_regressor else _probability(task, kind)


def _probability(task: Task, metric: str) -> str:
    """Returns the name of the prediction that is one probability per row."""
    if not task.is_classifier:
        hint = "; use auc with thresholds: 0" if metric == "auc" else ""
        raise ValueError(f"{metric} bins probabilities, but l2_loss makes none{hint}")
    if task.probability is None:
        raise ValueError(f"{metric} needs num_class 1 or 2, got {task.num_class}")
    return task.probability
