"""The tasks of a config as a report sees them."""

from dataclasses import dataclass

from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import JudgedMetric, judged_metrics
from tzrec_core.tasks import build_tasks


@dataclass(frozen=True)
class Graded:
    """An X-AUC: of which prediction against which target.

    Attributes:
        name: Of the metric.
        output: The prediction.
        label: The target.
        exclude_tied_targets: Whether pairs of equal targets are left out.
    """

    name: str
    output: str
    label: str
    exclude_tied_targets: bool


@dataclass(frozen=True)
class TaskView:
    """A task.

    Attributes:
        name: Of its tower; None if the model has one task.
        label: Its label.
        output: Its main prediction; a list per row of a task of several classes.
        suffix: What follows its names, without characters that ids may not have.
        is_binary: Whether the prediction is the probability of a positive label.
        is_number: Whether the prediction is one number per row.
        metrics: Those that evaluation computes.
        losses: The names of its losses.
        graded: X-AUCs of all rows.
    """

    name: str | None
    label: str
    output: str
    suffix: str
    is_binary: bool
    is_number: bool
    metrics: tuple[JudgedMetric, ...]
    losses: tuple[str, ...]
    graded: tuple[Graded, ...]

    @property
    def metric_names(self) -> list[str]:
        """Metrics, then losses."""
        return [*(metric.name for metric in self.metrics), *self.losses]

    @property
    def grouped(self) -> list[JudgedMetric]:
        """The metrics within groups."""
        return [metric for metric in self.metrics if metric.key is not None]

    def heading(self, title: str) -> str:
        """Returns a section's title, with the task's name if there are several."""
        return title if self.name is None else f"{self.name}: {title.lower()}"


def task_views(config: EasyRecConfig) -> list[TaskView]:
    """Returns the tasks of a config in its order."""
    metrics = judged_metrics(config)
    views = []
    for index, task in enumerate(build_tasks(config)):
        kind = "probs" if task.is_classifier else "y"
        of_task = tuple(m for m in metrics if m.task.suffix == task.suffix)
        views.append(
            TaskView(
                name=task.tower,
                label=task.label,
                output=task.probability or f"{kind}{task.suffix}",
                suffix=f"-{index}",
                is_binary=task.probability is not None,
                is_number=task.probability is not None or not task.is_classifier,
                metrics=of_task,
                losses=tuple(loss.name + task.suffix for loss in task.losses),
                graded=tuple(
                    Graded(m.name, m.output, m.label, m.config.xauc.exclude_tied_targets)
                    for m in of_task
                    if m.config.WhichOneof("metric") == "xauc"
                ),
            )
        )
    return views
