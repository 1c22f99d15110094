"""How far apart two sets of rows are, column by column: the population stability index.

    PSI = sum over bins of (a - e) ln(a / e)

a and e are a bin's shares of the actual and of the expected rows (N. Siddiqi, Credit Risk
Scorecards, 2006, ch. 8): twice the symmetric Kullback-Leibler divergence of J. Jeffreys. Half a
row is added to each bin, so that an empty one does not make it infinite. Without any drift it is
about (B - 1) (1 / n_a + 1 / n_e) in the mean, and so times a chi-squared distribution of B - 1
degrees of freedom over B - 1 (B. Yurdakul, Statistical Properties of Population Stability Index,
2018): a value that chance would reach is no drift.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from tzrec_core.features import columns

MODERATE, LARGE = 0.1, 0.25
"""Siddiqi's thresholds."""
NUM_RANGES, NUM_VALUES = 10, 20
_NORMAL_QUANTILE = 2.326  # of 99 %


class Drift(NamedTuple):
    """The PSI of a column, and the value that chance stays below 99 times of 100."""

    psi: float
    by_chance: float

    @property
    def size(self) -> str:
        """``none``, ``moderate`` or ``large``."""
        if not self.psi >= MODERATE or self.psi <= self.by_chance:  # also NaN
            return "none"
        return "moderate" if self.psi < LARGE else "large"


def reference(column: pa.ChunkedArray, *, is_number: bool) -> dict[str, Any]:
    """Returns the bins of a column and how many of its values are in each, as JSON values.

    Numbers are cut at the deciles; of ids and text the most frequent values have a bin each, all
    others share one. Rows without a value have the last bin. Of lists all values count, of maps
    the keys.

    Args:
        column: As encoded rows have it.
        is_number: Whether values are quantities, not ids.
    """
    values, num_missing = _flat(column)
    if is_number:
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        numbers = numbers[np.isfinite(numbers)]
        edges: list[float] = []
        if len(numbers):
            shares = np.arange(1, NUM_RANGES) / NUM_RANGES
            found = np.unique(np.quantile(numbers, shares, method="inverted_cdf"))
            edges = [edge for edge in found.tolist() if edge > numbers.min()]
        bins: dict[str, Any] = {"kind": "numbers", "edges": edges}
    else:
        different, how_often = pc.value_counts(values).flatten()
        table = pa.table({"value": different, "count": how_often})
        order = pc.sort_indices(table, [("count", "descending"), ("value", "ascending")])
        bins = {"kind": "values", "values": different.take(order[:NUM_VALUES]).to_pylist()}
    counts = _count(bins, values, num_missing)
    total = max(int(counts.sum()), 1)
    return {**bins, "count": total, "shares": (counts / total).tolist()}


def count(bins: Mapping[str, Any], column: pa.ChunkedArray) -> npt.NDArray[np.int64]:
    """Counts a column's values in the bins of a ``reference``.

    Raises:
        ValueError: The column has values of another type.
    """
    values, num_missing = _flat(column)
    return _count(bins, values, num_missing)


def psi(bins: Mapping[str, Any], counts: npt.NDArray[np.int64]) -> Drift:
    """Returns how far ``counts`` in the bins of a ``reference`` are from its own.

    Args:
        bins: The expected rows.
        counts: [B] of the actual ones, in the same bins.
    """
    expected = np.asarray(bins["shares"]) * bins["count"]
    num_actual, num_expected, num_bins = counts.sum(), expected.sum(), len(expected)
    # Bins without a row on either side are no bins: half a row in each would count as agreement.
    used = (expected > 0) | (counts > 0)
    num_bins = int(used.sum())
    if num_bins < 2 or num_actual == 0 or num_expected == 0:
        return Drift(0.0 if num_actual and num_expected else math.nan, 0.0)
    a = (counts[used] + 0.5) / (num_actual + 0.5 * num_bins)
    e = (expected[used] + 0.5) / (num_expected + 0.5 * num_bins)
    value = float(((a - e) * np.log(a / e)).sum())
    degrees = num_bins - 1
    # E. B. Wilson and M. M. Hilferty, The Distribution of Chi-square, 1931.
    spread = 2 / (9 * degrees)
    quantile = degrees * (1 - spread + _NORMAL_QUANTILE * math.sqrt(spread)) ** 3
    return Drift(value, float(quantile * (1 / num_actual + 1 / num_expected)))


def _count(bins: Mapping[str, Any], values: pa.Array, num_missing: int) -> npt.NDArray[np.int64]:
    if bins["kind"] == "numbers":
        if columns.is_text(values.type):
            raise ValueError("text cannot be counted in ranges of numbers")
        numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        finite = numbers[np.isfinite(numbers)]
        num_missing += len(numbers) - len(finite)
        part, num_parts = np.searchsorted(bins["edges"], finite, side="right"), len(bins["edges"])
    else:
        known = pa.array(bins["values"])
        if columns.is_text(known.type) != columns.is_text(values.type) and len(known):
            raise ValueError(f"values of type {values.type} are not {known.type}")
        known, num_parts = known.cast(values.type), len(known)
        part = pc.index_in(values, known).fill_null(num_parts).to_numpy(zero_copy_only=False)
    counts = np.bincount(part, minlength=num_parts + 1)
    return np.append(counts, num_missing).astype(np.int64)


def _flat(column: pa.ChunkedArray) -> tuple[pa.Array, int]:
    """Returns all values, and how many rows have none."""
    values = column.combine_chunks()
    if types.is_map(values.type) or columns.is_list(values.type):
        rows = columns.lists(values)
        num_missing = int((np.diff(rows.offsets) == 0).sum())
        values = rows.values
        if types.is_struct(values.type):
            values = values.flatten()[0]
        return values.drop_null(), num_missing
    if types.is_boolean(values.type):
        values = values.cast(pa.int8())
    return values.drop_null(), values.null_count
