"""Raw features: numbers of a column to dense inputs, or to buckets that are ids."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import types

from tzrec_core.features import columns
from tzrec_core.features.columns import Lists
from tzrec_core.features.schema import FeatureCounts

Numbers = npt.NDArray[np.float64]


def bucket(
    x: npt.NDArray[np.float32], boundaries: npt.NDArray[np.float32]
) -> npt.NDArray[np.int64]:
    """Returns how many of the ascending ``boundaries`` are <= x, for each x."""
    return np.searchsorted(boundaries, x, side="right").astype(np.int64)


@dataclass(frozen=True)
class RawTransform:
    """Encodes a column of numbers: normalizer, then default for missing ones, then boundaries.

    Without boundaries the result is float32, or fixed_size_list<float32> if ``value_dim`` > 1.
    With boundaries it is int64 with null where there is no value, or list<int64> if rows may
    hold several.

    Attributes:
        value_dim: Numbers per row; 0, which needs boundaries, is any number.
        default: What a missing number is taken for, not normalized, by its place in the row: one
            number or ``value_dim`` of them; empty, which needs boundaries, leaves it missing.
        separator: Between the numbers of one string.
        normalize: From raw to normalized numbers.
        boundaries: Ascending float32, compared with the normalized number as float32.
    """

    value_dim: int
    default: tuple[float, ...]
    separator: str
    normalize: Callable[[Numbers], Numbers] | None
    boundaries: npt.NDArray[np.float32] | None

    def __call__(self, column: pa.Array) -> tuple[pa.Array, FeatureCounts]:
        if self._is_encoded(column):
            return column, FeatureCounts(len(column), 0, len(column), 0)
        column = columns.plain(column)
        if columns.is_text(column.type) and self.value_dim != 1:
            column = columns.split(column, self.separator)
        if not columns.is_list(column.type):
            if self.value_dim > 1:
                raise ValueError(f"rows need value_dim = {self.value_dim} numbers, got one number")
            return self._fixed(columns.numbers(column)[:, None])
        rows = columns.lists(column)
        x = columns.numbers(rows.values)
        if self.value_dim == 0:
            return self._ragged(rows.offsets, x)
        return self._fixed(_grid(rows, x, self.value_dim))

    def _is_encoded(self, column: pa.Array) -> bool:
        return bool(
            self.normalize is None
            and self.boundaries is None
            and self.value_dim == 1
            and types.is_float32(column.type)
            and column.null_count == 0
            and np.isfinite(column.to_numpy()).all()
        )

    def _fixed(self, grid: Numbers) -> tuple[pa.Array, FeatureCounts]:
        """Encodes [rows, numbers per row], NaN where a number is missing."""
        missing = np.isnan(grid)
        num_empty = int(missing.all(axis=1).sum())
        counts = FeatureCounts(len(grid), num_empty, int((~missing).sum()), 0)
        y = self._normalized(np.where(missing, 0.0, grid), missing)
        if self.default:
            y = np.where(missing, np.asarray(self.default, np.float32), y)
            missing = np.zeros_like(missing)
        if self.boundaries is None:
            flat, width = pa.array(y.ravel()), grid.shape[1]
            return flat if width == 1 else pa.FixedSizeListArray.from_arrays(flat, width), counts
        ids = bucket(y, self.boundaries)
        if self.value_dim <= 1:
            return pa.array(ids[:, 0], mask=missing[:, 0]), counts
        offsets = columns.offsets_of((~missing).sum(axis=1))
        return columns.list_array(Lists(offsets, pa.array(ids[~missing]))), counts

    def _ragged(self, offsets: npt.NDArray[np.int64], x: Numbers) -> tuple[pa.Array, FeatureCounts]:
        """Encodes rows of any number of values, NaN where a number is missing."""
        assert self.boundaries is not None
        valid = ~np.isnan(x)
        y = self._normalized(x[valid], np.zeros(int(valid.sum()), np.bool_))
        rows = Lists(columns.offsets_of(valid.astype(np.int64))[offsets], pa.array(y))
        num_empty = int((np.diff(rows.offsets) == 0).sum())
        counts = FeatureCounts(len(offsets) - 1, num_empty, len(y), 0)
        rows = columns.fill_empty(rows, pa.array(self.default, pa.float32()))
        ids = pa.array(bucket(rows.values.to_numpy(), self.boundaries))
        return columns.list_array(Lists(rows.offsets, ids)), counts

    def _normalized(self, x: Numbers, missing: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
        with np.errstate(over="ignore"):
            y = (x if self.normalize is None else self.normalize(x)).astype(np.float32)
        wrong = ~(np.isfinite(y) | missing)
        if wrong.any():
            becomes = "" if self.normalize is None else f", which normalizes to {y[wrong][0]}"
            raise ValueError(f"numbers must be finite as float32, got {x[wrong][0]}{becomes}")
        return y


def parse_default(text: str, *, separator: str, value_dim: int, needed: bool) -> tuple[float, ...]:
    """Returns the numbers that ``text`` spells, which stand for missing ones; "" is none.

    Raises:
        ValueError: They are no finite numbers, or not one and not ``value_dim``, or there must be
            some and are none.
    """
    if not (text or needed):
        return ()
    try:
        values = tuple(float(part) for part in text.split(separator))
    except ValueError:
        raise ValueError(f"the default must be numbers, got {text!r}") from None
    if len(values) not in (1, value_dim):
        raise ValueError(f"the default must have 1 or {value_dim} numbers, got {text!r}")
    if not np.isfinite(np.asarray(values, np.float32)).all():
        raise ValueError(f"the default must be finite as float32, got {text!r}")
    return values


def _grid(rows: Lists, x: Numbers, value_dim: int) -> Numbers:
    """Returns the rows as [rows, value_dim]; a row without values is NaN throughout.

    Raises:
        ValueError: A row has another number of values.
    """
    lengths = np.diff(rows.offsets)
    num_valid = np.diff(columns.offsets_of((~np.isnan(x)).astype(np.int64))[rows.offsets])
    # A row of "" splits into one empty string: it is as empty as a list of none.
    empty = (num_valid == 0) & (lengths <= 1)
    wrong = np.flatnonzero(~empty & (lengths != value_dim))
    if len(wrong):
        start, stop = rows.offsets[wrong[0]], rows.offsets[wrong[0] + 1]
        example = rows.values[start:stop].to_pylist()
        raise ValueError(
            f"rows need value_dim = {value_dim} numbers, got {len(example)}: {example}"
        )
    grid = np.full((len(lengths), value_dim), np.nan)
    grid[~empty] = x[np.repeat(~empty, lengths)].reshape(-1, value_dim)
    return grid
