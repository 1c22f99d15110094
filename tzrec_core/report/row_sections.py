"""The sections on one task that need scored rows: curves, calibration and groups."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.evaluation.statistics import Columns, groups_of
from tzrec_core.metrics.group_sums import GroupValues
from tzrec_core.metrics.xauc import xauc
from tzrec_core.report import bins, curves, figures, target_parts, within_groups
from tzrec_core.report.page import MISSING, Cell, Figure, Section, Table, between, number, share
from tzrec_core.report.task_view import TaskView


def ranking_section(task: TaskView, rows: Columns, champion: Columns | None) -> Section:
    """Returns ROC, precision and recall, and X-AUC by the target's deciles."""
    drawn: list[Figure] = []
    notes: list[str] = []
    if task.is_binary:
        drawn, notes = _curves(task, rows, champion)
    else:
        notes.append(f"{task.label} has no two classes, so that there is no ROC curve.")
    drawn += _by_target(task, rows, notes)
    return Section(task.heading("Ranking"), figures=drawn, notes=notes)


def _curves(
    task: TaskView, rows: Columns, champion: Columns | None
) -> tuple[list[Figure], list[str]]:
    scores, labels = _numbers(rows, task.output), _numbers(rows, task.label)
    counts = curves.count_above(scores, labels)
    if not counts.has_both_classes:
        which = "positive" if len(labels) and labels[0] > 0 else "negative"
        return [], [f"All rows are {which}: there are no ROC and precision-recall curves."]
    other = None
    if champion is not None:
        other = curves.count_above(_numbers(champion, task.output), _numbers(champion, task.label))
        other = other if other.has_both_classes else None
    of_other = None if other is None else curves.roc_curve(other)
    base_rate = float(counts.positives[-1] / (counts.positives[-1] + counts.negatives[-1]))
    precision = curves.average_precision(counts)
    return [
        Figure(
            "ROC",
            figures.roc(curves.roc_curve(counts), of_other, name=f"roc{task.suffix}"),
            "The dashed line is an order at random.",
        ),
        Figure(
            "Precision and recall",
            figures.precision_recall(
                curves.precision_recall_curve(counts),
                None if other is None else curves.precision_recall_curve(other),
                base_rate,
                name=f"pr{task.suffix}",
            ),
            f"Average precision {number(precision)}; dashed, the share of positives, "
            f"{number(base_rate)}.",
        ),
    ], []


def _by_target(task: TaskView, rows: Columns, notes: list[str]) -> list[Figure]:
    drawn = []
    for graded in task.graded:
        preds, target = rows.number(graded.output, None), rows.number(graded.label, None)
        if len(preds) < 2:
            notes.append(f"One row has no pair, so that {graded.name} has no deciles.")
            continue
        if len(torch.unique(target)) <= 2:
            notes.append(
                f"X-AUC by target decile does not apply: {graded.label} has two values at most."
            )
            continue
        parts = target_parts.xauc_by_target(
            preds, target, exclude_tied_targets=graded.exclude_tied_targets
        )
        overall = float(xauc(preds, target, exclude_tied_targets=graded.exclude_tied_targets))
        drawn.append(
            Figure(
                f"X-AUC by {graded.label}",
                figures.by_target(parts, overall, target=graded.label, name=f"parts-{graded.name}"),
                "Pairs in order, of a row of the range with any other row; ranges have about "
                "equal numbers of rows, equal targets share one. Dashed: all rows.",
            )
        )
    if not task.graded and task.is_binary:
        notes.append(
            "X-AUC by target decile does not apply to a target of two values; a metric xauc with "
            "a graded label_name would have it."
        )
    return drawn


def score_section(
    task: TaskView, rows: Columns, champion: Columns | None, *, key: str | None, level: float
) -> Section:
    """Returns calibration, and where scores are."""
    preds, target = _numbers(rows, task.output), _numbers(rows, task.label)
    found = bins.calibration_bins(preds, target, _groups(rows, key), level=level)
    other = None
    if champion is not None:
        other = bins.calibration_bins(
            _numbers(champion, task.output), _numbers(champion, task.label), None
        )
    observed = "share of positives" if task.is_binary else "mean target"
    counts = found.counts
    drawn = [
        Figure(
            "Calibration",
            figures.calibration(found, other, observed=observed, name=f"bins{task.suffix}"),
            f"{len(counts)} bins of {_span(counts)} rows by their prediction, "
            f"{level:.0%} intervals; on the dashed line predictions are right. Mean distance "
            f"from it: {number(found.error)}.".replace("%", "\N{NO-BREAK SPACE}%"),
        )
    ]
    if task.is_binary:
        edges, first, second = bins.histograms(preds, target > 0)
        names = ("negatives", "positives")
    else:
        both = np.concatenate([target, preds])
        edges, first, second = bins.histograms(both, np.arange(len(both)) >= len(target))
        names = ("targets", "predictions")
    title = "Scores by label" if task.is_binary else "Predictions and targets"
    drawn.append(
        Figure(
            title,
            figures.two_histograms(
                edges, first, second, names=names, x="score", name=f"scores{task.suffix}"
            ),
            "Shares of each kind; the outermost bins hold the 0.1\N{NO-BREAK SPACE}% beyond.",
        )
    )
    bins_table = Table(
        ["bin", "rows", "mean prediction", observed, "interval"],
        [
            [
                Cell(str(index + 1)),
                Cell(f"{count:,}"),
                Cell(number(p)),
                Cell(number(o)),
                Cell(between(low, high) or MISSING),
            ]
            for index, (count, p, o, low, high) in enumerate(
                zip(counts, found.predicted, found.observed, found.low, found.high, strict=True)
            )
        ],
        fold="The bins in numbers",
    )
    return Section(task.heading("Calibration and scores"), [bins_table], drawn)


def group_section(task: TaskView, rows: Columns) -> Section:
    """Returns metrics within groups by group size, and their distribution."""
    drawn: list[Figure] = []
    notes = []
    for judged in task.grouped:
        assert judged.key is not None
        groups = groups_of(judged, rows)
        if not bool((groups.weights > 0).any()):
            notes.append(f"No {judged.key} has a value of {judged.name}: nothing to show.")
            continue
        # An order at random has one half in the mean, but for ties.
        at_random = None if judged.config.HasField("ndcg_at_k") else 0.5
        drawn += _group_figures(judged.name, judged.key, groups, at_random)
    if not task.grouped:
        notes.append("No metric of this task groups rows; grouped_auc, for example, would.")
    return Section(task.heading("Groups"), figures=drawn, notes=notes)


def _group_figures(
    name: str, key: str, groups: GroupValues, at_random: float | None
) -> Iterator[Figure]:
    values, weights, sizes = (
        column.numpy() for column in (groups.values, groups.weights, groups.sizes)
    )
    overall = groups.add_up().value
    found = within_groups.distribution(values, weights, sizes)
    yield Figure(
        f"{name} by group size",
        figures.by_group_size(
            within_groups.by_size(values, weights, sizes),
            overall,
            metric=name,
            key=key,
            name=f"sizes-{name}",
        ),
        f"Weighted means with 1.96 standard errors; bars: how many {key} have a value. "
        "Dashed: all of them.",
    )
    yield Figure(
        f"{name} from group to group",
        figures.distribution(
            found, metric=name, key=key, at_random=at_random, name=f"groups-{name}"
        ),
        ""
        if at_random is None
        else f"{share(found.below_half)} of {key} with a value are below 0.5.",
    )


def _numbers(rows: Columns, name: str) -> Any:
    values: Tensor = rows.number(name, None)
    return values.numpy()


def _groups(rows: Columns, key: str | None) -> Any:
    """Returns a group for each row; those of no known key are by themselves."""
    if key is None:
        return None
    ids = rows.ids(key, None).numpy()
    _, group = np.unique(ids, return_inverse=True)
    unknown = ids == NULL_ID
    group[unknown] = group.max(initial=0) + 1 + np.arange(int(unknown.sum()))
    return group


def _span(counts: Any) -> str:
    low, high = int(counts.min()), int(counts.max())
    return f"{low:,}" if low == high else f"{low:,} to {high:,}"
