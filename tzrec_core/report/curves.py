"""Curves over all thresholds of a score, as few points as it takes to draw them."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

MAX_POINTS = 200


class Counts(NamedTuple):
    """How many rows have a score of a threshold or more, thresholds descending.

    Attributes:
        threshold: [T], the different scores.
        positives: [T] of the rows with a positive label.
        negatives: [T] of all others.
    """

    threshold: Floats
    positives: Floats
    negatives: Floats

    @property
    def has_both_classes(self) -> bool:
        """Whether there are positives and negatives, without which there is no curve."""
        return len(self.positives) > 0 and bool(self.positives[-1] > 0 and self.negatives[-1] > 0)


class Curve(NamedTuple):
    """[P] points."""

    x: Floats
    y: Floats


class RocCurve(NamedTuple):
    """[P] points from (0, 0) to (1, 1)."""

    false_rate: Floats
    recall: Floats
    threshold: Floats


def count_above(scores: npt.NDArray[np.floating], labels: npt.NDArray[np.number]) -> Counts:
    """Counts rows above every threshold.

    Args:
        scores: [n], finite.
        labels: [n], positive where > 0.
    """
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order].astype(np.float64), labels[order] > 0
    last_of_score = np.flatnonzero(np.append(np.diff(ordered) != 0, True)[: len(ordered)])
    return Counts(
        ordered[last_of_score],
        np.cumsum(positive)[last_of_score].astype(np.float64),
        np.cumsum(~positive)[last_of_score].astype(np.float64),
    )


def roc_curve(counts: Counts, *, max_points: int = MAX_POINTS) -> RocCurve:
    """Returns the ROC curve, with finite thresholds: the first lies just above all scores.

    Where there are more distinct scores than ``max_points``, points are kept at even distances
    along the curve.

    Args:
        counts: Of both classes.
        max_points: At least 2.
    """
    assert counts.has_both_classes
    recall = np.append(0.0, counts.positives / counts.positives[-1])
    false_rate = np.append(0.0, counts.negatives / counts.negatives[-1])
    threshold = np.append(np.nextafter(counts.threshold[0], np.inf), counts.threshold)
    if len(recall) > max_points:
        # A curve that only rises has length recall + false_rate in steps along the axes.
        marks = np.linspace(0, 2, max_points)
        kept = np.unique(np.searchsorted(recall + false_rate, marks - 1e-9))
        recall, false_rate, threshold = recall[kept], false_rate[kept], threshold[kept]
    return RocCurve(false_rate, recall, threshold)


def precision_recall_curve(counts: Counts, *, max_points: int = MAX_POINTS) -> Curve:
    """Returns precision (y) by recall (x), thresholds descending, one point for each recall.

    Of the thresholds of one recall the highest is kept, which has the best precision. Points are
    kept at even distances of recall where there are more than ``max_points``.

    Args:
        counts: Of both classes.
        max_points: At least 2.
    """
    assert counts.has_both_classes
    rises = np.flatnonzero(np.diff(counts.positives, prepend=0.0) > 0)
    recall = counts.positives[rises] / counts.positives[-1]
    precision = counts.positives[rises] / (counts.positives[rises] + counts.negatives[rises])
    if len(recall) > max_points:
        marks = np.linspace(recall[0], 1, max_points)
        kept = np.unique(np.searchsorted(recall, marks - 1e-9))
        recall, precision = recall[kept], precision[kept]
    return Curve(recall, precision)


def average_precision(counts: Counts) -> float:
    """Returns the sum over thresholds of precision times the recall gained, as scikit-learn.

    NaN without positives.
    """
    if len(counts.positives) == 0 or counts.positives[-1] == 0:
        return float("nan")
    precision = counts.positives / (counts.positives + counts.negatives)
    gained = np.diff(counts.positives, prepend=0.0) / counts.positives[-1]
    return float((precision * gained).sum())


def thin(curve: Curve, *, max_points: int = MAX_POINTS) -> Curve:
    """Returns at most ``max_points`` of a curve's points at even distances, ends included."""
    if len(curve.x) <= max_points:
        return curve
    kept = np.unique(np.linspace(0, len(curve.x) - 1, max_points).round().astype(np.int64))
    return Curve(curve.x[kept], curve.y[kept])
