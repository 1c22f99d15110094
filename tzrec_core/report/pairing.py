"""Two models on the same rows: by how much their metrics differ, and whether that is chance."""

from tzrec_core.evaluation.comparison import Comparison, check_same_rows, compare
from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.metrics.bootstrap import Difference
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import judged_metrics


class Differences:
    """The differences of a candidate's metrics from a baseline's, of all rows and of slices."""

    def __init__(self, comparisons: list[Comparison]) -> None:
        self.comparisons = comparisons
        self._found = {(c.metric, c.column, c.slice): c.difference for c in comparisons}

    def of_all(self, metric: str) -> Difference | None:
        """Returns the difference over all rows, None if there is none."""
        return self._found.get((metric, None, None))

    def of_slice(self, metric: str, column: str, name: str) -> Difference | None:
        """Returns the difference over a slice, None if there is none."""
        return self._found.get((metric, column, name))

    def listed(self) -> dict[str, Difference]:
        """Returns those over all rows by metric."""
        return {
            metric: difference
            for (metric, column, _), difference in self._found.items()
            if column is None
        }


def paired_differences(
    config: EasyRecConfig,
    candidate: Predictions | None,
    baseline: Predictions | None,
    *,
    with_slices: bool,
) -> tuple[Differences, list[str]]:
    """Returns all differences, and sentences on those that there are not.

    Args:
        config: Of the candidate; its metrics count.
        candidate: Scored rows; None if they are gone.
        baseline: Scored rows of the other model; likewise.
        with_slices: Also the slices of ``eval_config``.

    Raises:
        ValueError: Predictions are NaN, or labels are not what a metric takes.
    """
    if candidate is None or baseline is None:
        return Differences([]), [
            "The predictions of one of the two models are not on disk: there is no paired test."
        ]
    try:
        check_same_rows(config, candidate, baseline)
    except ValueError as error:
        return Differences([]), [
            f"There is no paired test, {error}. The metrics stand side by side, but a difference "
            "between them may come from the rows."
        ]
    names, notes = [], []
    for metric in judged_metrics(config):
        if metric.output in baseline.table.column_names:
            names.append(metric.name)
        else:
            notes.append(f"The other model has no {metric.output}, which {metric.name} is of.")
    found = compare(config, candidate, baseline, metrics=names, with_slices=with_slices)
    compared = {comparison.metric for comparison in found}
    notes += [
        f"{name} has no paired test: it is not made of sums over groups."
        for name in names
        if name not in compared
    ]
    return Differences(found), notes
