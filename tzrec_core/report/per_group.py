"""The value of every grouped metric for each group, as a table."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa

from tzrec_core.batch import NULL_ID
from tzrec_core.evaluation.statistics import Columns, groups_of
from tzrec_core.report.task_view import TaskView
from tzrec_core.task_metrics import JudgedMetric


def per_group(tasks: Sequence[TaskView], rows: Columns) -> pa.Table | None:
    """Returns a row for each group of each grouping key; None if no metric groups rows.

    The columns are ``key`` (the grouping key's name), ``group`` (int64, as encoded), ``rows``, for
    each label of two classes ``positives_<label>``, and each grouped metric's value, null where a
    group has none or the metric has another key.
    """
    metrics = [metric for task in tasks for metric in task.grouped]
    if not metrics:
        return None
    labels = dict.fromkeys(task.label for task in tasks if task.is_binary)
    tables = []
    for key in dict.fromkeys(metric.key for metric in metrics):
        assert key is not None
        of_key = [metric for metric in metrics if metric.key == key]
        tables.append(_of_key(key, of_key, list(labels), rows))
    return pa.concat_tables(tables, promote_options="default")


def _of_key(
    key: str, metrics: Sequence[JudgedMetric], labels: Sequence[str], rows: Columns
) -> pa.Table:
    ids = rows.ids(key, None).numpy()
    known = ids != NULL_ID
    # In the order of the key, as the metrics have their groups.
    groups, number, sizes = np.unique(ids[known], return_inverse=True, return_counts=True)
    columns = {
        "key": pa.array([key] * len(groups), pa.string()),
        "group": pa.array(groups),
        "rows": pa.array(sizes),
    }
    for label in labels:
        is_positive = (rows.number(label, None).numpy()[known] > 0).astype(np.float64)
        positives = np.bincount(number, is_positive, len(groups)).astype(np.int64)
        columns[f"positives_{label}"] = pa.array(positives)
    for metric in metrics:
        found = groups_of(metric, rows)
        has_value = (found.weights > 0).numpy()
        columns[metric.name] = pa.array(found.values.numpy(), mask=~has_value)
    return pa.table(columns)
