"""Compares a served model with the checkpoint's own on real rows."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tzrec_core.batch import Batch
from tzrec_core.exporting.inputs import of_batch
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import TaskMetrics
from tzrec_core.task_model import TaskModel
from tzrec_core.tasks import checked, predictions


def largest_difference(model: TaskModel, served: nn.Module, batches: Iterator[Batch]) -> float:
    """Returns the largest difference between two models' outputs; NaN if one is NaN.

    Raises:
        ValueError: There is no row to compare with.
    """
    differences = [torch.zeros(1)]
    with torch.no_grad():
        for batch in batches:
            expected, actual = _outputs(model, served, batch)
            differences += [(actual[name] - expected[name]).abs().flatten() for name in expected]
    if len(differences) == 1:
        raise ValueError("there is no row to check the exported model with")
    return float(torch.cat(differences).max())


def accuracy_loss(
    config: EasyRecConfig,
    model: TaskModel,
    served: nn.Module,
    batches: Iterator[Batch],
    *,
    folder: Path,
) -> dict[str, Any]:
    """Returns what serving in a lower precision costs: JSON values, None for what is not finite.

    Args:
        config: Its metrics count.
        model: The checkpoint's, in float32.
        served: The same model as it is served.
        batches: Rows with labels.
        folder: Gets hidden folders for exact metrics' rows if ``rows_on_disk`` is set.

    Returns:
        ``rows``; ``outputs``, by name, with the largest and the mean absolute difference; and
        ``metrics``, by name, of both models.
    """
    before, after = (_metrics(config, folder / f".rows-{which}") for which in ("before", "after"))
    num_rows, changes = 0, dict[str, _Change]()
    with torch.no_grad():
        for batch in checked(batches, model.scoring.tasks):
            expected, actual = _outputs(model, served, batch)
            before.update(expected, batch)
            after.update(actual, batch)
            num_rows += len(batch)
            for name, values in expected.items():
                changes.setdefault(name, _Change()).add((actual[name] - values).abs())
    old, new = before.compute(), after.compute()
    return {
        "rows": num_rows,
        "outputs": {name: change.described() for name, change in changes.items()},
        "metrics": {
            name: {"fp32": _finite(old[name]), "served": _finite(new[name])} for name in sorted(old)
        },
    }


class _Change:
    """The absolute differences of one output, batch after batch."""

    def __init__(self) -> None:
        self.largest, self.total, self.count = torch.zeros(()), 0.0, 0

    def add(self, differences: Tensor) -> None:
        self.largest = torch.maximum(self.largest, differences.max())  # NaN stays
        self.total += float(differences.sum(dtype=torch.float64))
        self.count += differences.numel()

    def described(self) -> dict[str, float | None]:
        return {
            "largest_difference": _finite(float(self.largest)),
            "mean_difference": _finite(self.total / self.count),
        }


def _metrics(config: EasyRecConfig, rows_folder: Path) -> TaskMetrics:
    if not config.eval_config.rows_on_disk:
        return TaskMetrics(config)
    rows_folder.mkdir()
    return TaskMetrics(config, rows_folder=rows_folder)


def _outputs(
    model: TaskModel, served: nn.Module, batch: Batch
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Returns the outputs of the checkpoint's model and of the served one."""
    return predictions(model.scoring.tasks, model.model(batch)), served(*of_batch(batch))


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None
