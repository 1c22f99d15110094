"""Counts and moments of encoded columns, gathered chunk by chunk in bounded memory."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from tzrec_core.data.shuffle import mix64
from tzrec_core.features import columns
from tzrec_core.features.hashing import hash_text
from tzrec_core.features.id_transform import IdTransform
from tzrec_core.features.schema import BatchSchema, Feature

# The relative error of a distinct count above it is about 1 / sqrt(SKETCH_SIZE) = 1.6 %.
SKETCH_SIZE = 4096


@dataclass(frozen=True)
class Distinct:
    """The smallest hashes of the values seen: a KMV sketch.

    Z. Bar-Yossef et al.: Counting Distinct Elements in a Data Stream, 2002.
    """

    hashes: npt.NDArray[np.uint64]
    """Sorted, without repetition, at most ``SKETCH_SIZE``."""

    def __add__(self, other: "Distinct") -> "Distinct":
        # Sorting beats numpy.unique, which hashes.
        merged = np.sort(np.concatenate([self.hashes, other.hashes]))
        return Distinct(merged[np.diff(merged, prepend=~merged[:1]) != 0][:SKETCH_SIZE])

    @property
    def is_exact(self) -> bool:
        return len(self.hashes) < SKETCH_SIZE

    @property
    def count(self) -> int:
        """Number of different values; exact below ``SKETCH_SIZE``, else an estimate."""
        if self.is_exact:
            return len(self.hashes)
        return round((SKETCH_SIZE - 1) * 2.0**64 / float(self.hashes[-1]))


@dataclass(frozen=True)
class Moments:
    """Count, mean, sum of squared deviations, and extremes of numbers."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    minimum: float = math.inf
    maximum: float = -math.inf

    def __add__(self, other: "Moments") -> "Moments":
        """Merges; T. F. Chan, G. H. Golub, R. J. LeVeque: Updating Formulae, 1979."""
        count = self.count + other.count
        if count == 0:
            return self
        delta = other.mean - self.mean
        return Moments(
            count,
            self.mean + delta * other.count / count,
            self.squares + other.squares + delta**2 * self.count * other.count / count,
            min(self.minimum, other.minimum),
            max(self.maximum, other.maximum),
        )

    @property
    def std(self) -> float:
        """Standard deviation of the population."""
        return math.sqrt(self.squares / self.count)


@dataclass(frozen=True)
class ColumnSummary:
    """What a column holds. ``moments`` is None for ids."""

    rows: int
    nulls: int
    distinct: Distinct
    moments: Moments | None

    def __add__(self, other: "ColumnSummary") -> "ColumnSummary":
        moments = None
        if self.moments is not None and other.moments is not None:
            moments = self.moments + other.moments
        return ColumnSummary(
            self.rows + other.rows,
            self.nulls + other.nulls,
            self.distinct + other.distinct,
            moments,
        )


def summarize(column: pa.ChunkedArray, *, is_number: bool) -> ColumnSummary:
    """Summarises one encoded column: numbers, ids, text, lists of numbers or ids, maps from ids.

    A row without values counts as null; the values of all rows count otherwise, and of a map its
    keys.
    """
    values = column.combine_chunks()
    nulls = values.null_count
    if types.is_map(values.type) or columns.is_list(values.type):
        rows = columns.lists(values)
        nulls = int((np.diff(rows.offsets) == 0).sum())
        values = rows.values
        if types.is_struct(values.type):
            values = values.flatten()[0]
    values = values.drop_null()
    hashes = np.sort(mix64(_bits(pc.unique(values))))[:SKETCH_SIZE]
    moments = _moments(values.to_numpy(zero_copy_only=False)) if is_number else None
    return ColumnSummary(len(column), nulls, Distinct(hashes), moments)


def describe(summary: ColumnSummary) -> dict[str, Any]:
    """Returns a summary as JSON values; numbers that are not finite become None."""
    described: dict[str, Any] = {
        "nulls": summary.nulls,
        "null_share": summary.nulls / summary.rows,
        "distinct": summary.distinct.count,
        "distinct_is_exact": summary.distinct.is_exact,
    }
    if summary.moments is not None and summary.moments.count:
        moments = summary.moments
        numbers = {
            "min": moments.minimum,
            "mean": moments.mean,
            "max": moments.maximum,
            "std": moments.std,
        }
        described |= {
            name: number if math.isfinite(number) else None for name, number in numbers.items()
        }
    return described


def unknown_value_warnings(schema: BatchSchema, stats: Mapping[str, Any]) -> Iterator[str]:
    """Yields a line for each feature with values outside its range or vocabulary.

    Args:
        schema: What the rows were encoded with.
        stats: Content of ``_stats.json``.
    """
    for feature in schema.features:
        found = [
            f"{column['out_of_vocabulary']} in {share} "
            f"({column['out_of_vocabulary_share']:.2%} of its values)"
            for share, described in stats.items()
            if (column := described["columns"][feature.name]).get("out_of_vocabulary")
        ]
        if found:
            yield (
                f"feature {feature.name}: values outside its range or vocabulary: "
                f"{', '.join(found)}; {_fate(feature)}"
            )


def _fate(feature: Feature) -> str:
    """Returns what encoding makes of values that it does not know."""
    transform = feature.transform
    assert isinstance(transform, IdTransform)  # no other has a range or a vocabulary
    if transform.unknown_id is not None:
        return f"they get id {transform.unknown_id}"
    if transform.default_ids:
        defaults = ", ".join(map(str, transform.default_ids))
        return f"they are left out, rows without any other get the id of default_value, {defaults}"
    return "they are left out, rows without any other have no id and embedding 0"


def _bits(different: pa.Array) -> npt.NDArray[np.uint64]:
    if types.is_string(different.type):
        return hash_text(different)
    values: npt.NDArray[np.generic] = different.to_numpy(zero_copy_only=False)
    wide = np.float64 if types.is_floating(different.type) else np.int64
    return values.astype(wide).view(np.uint64)


def _moments(values: npt.NDArray[np.generic]) -> Moments:
    numbers = values.astype(np.float64)
    if len(numbers) == 0:
        return Moments()
    mean = float(numbers.mean())
    return Moments(
        len(numbers),
        mean,
        float(np.square(numbers - mean).sum()),
        float(numbers.min()),
        float(numbers.max()),
    )
