"""How a metric within groups varies: with a group's size, and from group to group."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Integers = npt.NDArray[np.int64]


@dataclass(frozen=True)
class SizeClass:
    """Groups of ``smallest`` to ``largest`` rows.

    Attributes:
        smallest: A power of two.
        largest: One less than the next.
        num_groups: Those that have a value.
        value: Their weighted mean.
        error: Its standard error, NaN for a single group.
    """

    smallest: int
    largest: int
    num_groups: int
    value: float
    error: float

    @property
    def name(self) -> str:
        """``1``, ``2-3``, ``4-7``, ..."""
        same = self.smallest == self.largest
        return f"{self.smallest}" if same else f"{self.smallest}-{self.largest}"


@dataclass(frozen=True)
class Distribution:
    """How a metric is distributed over groups that have a value.

    Attributes:
        edges: [B + 1] from 0 to 1.
        of_groups: [B] shares of groups.
        of_rows: [B] shares of the rows in them.
        below_half: The share of groups worse than 0.5, what an order at random has on average.
    """

    edges: Floats
    of_groups: Floats
    of_rows: Floats
    below_half: float


def by_size(values: Floats, weights: Floats, sizes: Integers) -> list[SizeClass]:
    """Returns the metric of groups of about equal size, in classes that double; none is empty.

    The standard error of the weighted mean m is sqrt(n / (n - 1) * sum w^2 (v - m)^2) / sum w.

    Args:
        values: [G].
        weights: [G], 0 where a group has no value.
        sizes: [G] rows.
    """
    used = weights > 0
    values, weights, sizes = values[used], weights[used], sizes[used]
    exponent = np.frexp(sizes.astype(np.float64))[1] - 1
    classes = []
    for power in np.unique(exponent).tolist():
        here = exponent == power
        value, weight = values[here], weights[here]
        mean = float((weight * value).sum() / weight.sum())
        n, error = len(value), math.nan
        if n > 1:
            squares = float(np.square(weight * (value - mean)).sum())
            error = math.sqrt(n / (n - 1) * squares) / float(weight.sum())
        classes.append(SizeClass(2**power, 2 ** (power + 1) - 1, n, mean, error))
    return classes


def distribution(
    values: Floats, weights: Floats, sizes: Integers, *, num_bins: int = 20
) -> Distribution:
    """Returns how the values of groups are distributed over [0, 1].

    Args:
        values: [G] from 0 to 1.
        weights: [G], 0 where a group has no value; one has.
        sizes: [G] rows.
        num_bins: How many bins.
    """
    used = weights > 0
    values, sizes = values[used], sizes[used]
    edges = np.linspace(0, 1, num_bins + 1)
    of_groups = np.histogram(values, edges)[0] / len(values)
    of_rows = np.histogram(values, edges, weights=sizes)[0] / sizes.sum()
    return Distribution(edges, of_groups, of_rows, float((values < 0.5).mean()))
