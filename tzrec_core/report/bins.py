"""Rows put into bins by their prediction: how often each bin is right, and where scores lie."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class CalibrationBins:
    """Bins of about equal numbers of rows, by ascending prediction; each [B].

    Attributes:
        counts: Rows.
        predicted: The mean prediction.
        observed: The mean target.
        low: Where the interval of ``observed`` begins.
        high: Where it ends.
    """

    counts: Integers
    predicted: Floats
    observed: Floats
    low: Floats
    high: Floats

    @property
    def error(self) -> float:
        """The mean over rows of how far observed is from predicted in their bin."""
        difference = np.abs(self.predicted - self.observed)
        return float((self.counts * difference).sum() / self.counts.sum())


def equal_parts(values: npt.NDArray[np.floating], num_parts: int) -> tuple[Integers, Floats]:
    """Puts values into at most ``num_parts`` ranges of about equal numbers; ties stay together.

    Returns:
        [n] the range of each value; the boundaries, ascending, each the smallest value of a range.
    """
    shares = np.arange(1, num_parts) / num_parts
    edges = np.unique(np.quantile(values, shares, method="inverted_cdf").astype(np.float64))
    edges = edges[edges > values.min()]
    return np.searchsorted(edges, values, side="right"), edges


def calibration_bins(
    preds: npt.NDArray[np.floating],
    target: npt.NDArray[np.number],
    groups: Integers | None,
    *,
    num_bins: int = 12,
    level: float = 0.95,
) -> CalibrationBins:
    """Compares predictions and targets bin by bin.

    Intervals take into account that rows of one group are alike: the variance of a bin's mean is
    that of sums over groups (L. Kish, Survey Sampling, 1965, ch. 5). Of targets that are 0 and 1
    it gives an effective number of rows, n / max(1, variance / (p (1 - p) / n)), and the interval
    is Wilson's (Journal of the American Statistical Association 22, 1927) of that number, which
    also holds where a bin has few positives or none. Of other targets it is mean +- z * standard
    error. Of a bin of one group, which says nothing of others, it is NaN.

    Args:
        preds: [n], finite, n > 0.
        target: [n].
        groups: [n], equal for rows that belong together; None: every row by itself.
        num_bins: The most bins to make.
        level: How likely an interval is to hold the true mean.
    """
    preds, values = preds.astype(np.float64), target.astype(np.float64)
    part, edges = equal_parts(preds, num_bins)
    num_parts = len(edges) + 1
    counts = np.bincount(part, minlength=num_parts)
    predicted = np.bincount(part, preds, num_parts) / counts
    observed = np.bincount(part, values, num_parts) / counts
    variance = _variance_of_means(values - observed[part], part, groups, counts)
    z = NormalDist().inv_cdf((1 + level) / 2)
    if ((values == 0) | (values == 1)).all():
        of_rows = observed * (1 - observed) / counts
        # 0 / 0 where a bin has one class.
        effect = np.divide(variance, of_rows, out=np.ones(num_parts), where=of_rows > 0)
        number = counts / np.fmax(effect, 1.0)
        if groups is not None:
            number[np.isnan(variance)] = math.nan
        low, high = wilson_interval(observed, number, z=z)
    else:
        low, high = observed - z * np.sqrt(variance), observed + z * np.sqrt(variance)
    return CalibrationBins(counts, predicted, observed, low, high)


def wilson_interval(share: Floats, number: Floats, *, z: float) -> tuple[Floats, Floats]:
    """Returns Wilson's score interval of shares observed among ``number`` rows; NaN stays."""
    center = share + z * z / (2 * number)
    spread = z * np.sqrt(share * (1 - share) / number + (z / (2 * number)) ** 2)
    shrink = 1 + z * z / number
    return np.maximum(0.0, (center - spread) / shrink), np.minimum(1.0, (center + spread) / shrink)


def histograms(
    scores: npt.NDArray[np.floating], is_second: npt.NDArray[np.bool_], *, num_bins: int = 40
) -> tuple[Floats, Floats, Floats]:
    """Returns where the scores of two kinds of rows lie, as shares of the rows of each kind.

    The bins are equally wide from the 0.1 % to the 99.9 % quantile of all scores, and the outer
    ones hold all beyond, so that a few extreme scores do not squeeze the others.

    Args:
        scores: [n], finite, n > 0.
        is_second: [n].
        num_bins: How many bins.

    Returns:
        [num_bins + 1] edges, [num_bins] shares of the first kind, [num_bins] of the second; 0
        throughout for a kind without rows.
    """
    low, high = np.quantile(scores, [0.001, 0.999])
    if not high > low:
        low, high = low - 0.5, high + 0.5
    edges = np.linspace(low, high, num_bins + 1)
    clipped = np.clip(scores, low, high)
    first, second = (np.histogram(clipped[which], edges)[0] for which in (~is_second, is_second))
    return edges, first / max(first.sum(), 1), second / max(second.sum(), 1)


def _variance_of_means(
    residuals: Floats, part: Integers, groups: Integers | None, counts: Integers
) -> Floats:
    """Returns [B] variances of the mean of each bin, whose residuals add up to 0.

    That of a bin of one group is NaN.
    """
    num_parts = len(counts)
    if groups is None:
        groups = np.arange(len(part))
    _, group = np.unique(groups, return_inverse=True)
    cell = group * num_parts + part
    order = np.argsort(cell, kind="stable")
    starts = np.flatnonzero(np.diff(cell[order], prepend=-1))
    sums = np.add.reduceat(residuals[order], starts)
    of_part = part[order][starts]
    squares = np.bincount(of_part, np.square(sums), num_parts)
    num_groups = np.bincount(of_part, minlength=num_parts).astype(np.float64)
    correction = np.full(num_parts, math.nan)
    np.divide(num_groups, num_groups - 1, out=correction, where=num_groups > 1)
    return np.asarray(correction * squares / np.square(counts, dtype=np.float64))
