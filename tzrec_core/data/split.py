"""Decides which rows of an input are for evaluation."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from tzrec_core.data.shuffle import mix64, random_keys
from tzrec_core.features import columns
from tzrec_core.features.hashing import hash_text

Mask = npt.NDArray[np.bool_]
Split = Callable[[pa.Table, int], Mask]
"""From consecutive rows and the index of the first to whether each is for evaluation."""

_SIGN = np.uint64(1 << 63)


@dataclass(frozen=True)
class SplitRule:
    """How to take rows for evaluation out of an input.

    Attributes:
        by: ``rows`` draws single rows; ``hash:<column>`` draws values of a column with all of
            their rows (and rows without a value singly); ``time:<column>`` takes the latest rows,
            of those at the boundary all.
        eval_fraction: share of the rows (or values) to take.
        seed: of the draws, an unsigned 64-bit integer.
    """

    by: str
    eval_fraction: float
    seed: int

    def __post_init__(self) -> None:
        if self.by != "rows" and (self.kind not in ("hash", "time") or not self.column):
            raise ValueError(
                f"split_by must be rows, hash:<column> or time:<column>, got {self.by!r}"
            )
        if not 0 < self.eval_fraction < 1:
            raise ValueError(f"eval_fraction must be between 0 and 1, got {self.eval_fraction}")
        if not 0 <= self.seed < 2**64:
            raise ValueError(f"seed must be 0 or more and less than 2**64, got {self.seed}")

    @property
    def kind(self) -> str:
        return self.by.partition(":")[0]

    @property
    def column(self) -> str:
        """The column that decides, "" for ``rows``."""
        return self.by.partition(":")[2]

    def check(self, schema: pa.Schema) -> None:
        """Raises ValueError unless an input with the columns ``schema`` can be split so."""
        if self.kind == "rows":
            return
        if self.column not in schema.names:
            raise ValueError(
                f"split_by is {self.by!r}, but the input has only the columns "
                f"{', '.join(sorted(schema.names))}"
            )
        nothing = schema.empty_table()[self.column]
        try:
            _distinct(nothing) if self.kind == "hash" else order_keys(nothing)
        except ValueError as error:
            raise ValueError(f"split_by is {self.by!r}, but {error}") from None

    def build(self, times: Iterable[pa.Table], folder: Path) -> Split:
        """Returns the function that splits.

        Args:
            times: the deciding column of the whole input; iterated for ``time`` only.
            folder: for a temporary file, likewise.

        Raises:
            ValueError: a row has no time.
        """
        match self.kind:
            case "rows":
                return _split_rows(self.eval_fraction, self.seed)
            case "hash":
                return _split_by_hash(self.column, self.eval_fraction, self.seed)
            case _:
                return _split_by_time(self.column, self.eval_fraction, times, folder)


def _split_rows(eval_fraction: float, seed: int) -> Split:
    limit = _limit(eval_fraction)

    def split(raw: pa.Table, start: int) -> Mask:
        return random_keys(seed, "split", start, raw.num_rows) < limit

    return split


def _split_by_hash(column: str, eval_fraction: float, seed: int) -> Split:
    limit = _limit(eval_fraction)
    salt = random_keys(seed, "split values", 0, 1)

    def split(raw: pa.Table, start: int) -> Mask:
        values = _distinct(raw[column])
        # A second hash, so that the split has nothing to do with the buckets of id features.
        drawn = pa.array(mix64(hash_text(values.dictionary) ^ salt) < limit)
        alone = pa.array(random_keys(seed, "split", start, raw.num_rows) < limit)
        chosen = pc.coalesce(drawn.take(values.indices), alone)
        return np.asarray(chosen.to_numpy(zero_copy_only=False))

    return split


def _split_by_time(
    column: str, eval_fraction: float, tables: Iterable[pa.Table], folder: Path
) -> Split:
    """Finds the exact quantile in bounded memory, through a file of 8 bytes a row."""
    path = folder / "times"
    num_rows = 0
    with path.open("wb") as file:
        for table in tables:
            num_rows += table.num_rows
            try:
                file.write(order_keys(table[column]).tobytes())
            except ValueError as error:
                raise ValueError(f"split_by is 'time:{column}', but {error}") from None
    num_eval = max(1, round(num_rows * eval_fraction))
    threshold = smallest(np.memmap(path, np.uint64, mode="r"), num_rows - num_eval)
    path.unlink()

    def split(raw: pa.Table, start: int) -> Mask:
        del start
        return order_keys(raw[column]) >= threshold

    return split


def order_keys(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """Maps times to integers that sort alike.

    Raises:
        ValueError: the column holds no numbers, dates or timestamps, or has a null or NaN.
    """
    kind = column.type
    if types.is_date32(kind):
        column, kind = column.cast(pa.int32()), pa.int32()
    is_moment = types.is_timestamp(kind) or types.is_date64(kind)
    if not (types.is_integer(kind) or types.is_floating(kind) or is_moment):
        raise ValueError(f"the column holds {kind}, not numbers, dates or timestamps")
    if types.is_floating(kind):
        column = pc.if_else(pc.is_nan(column), pa.scalar(None, kind), column)
    if column.null_count:
        raise ValueError(f"the column is null in {column.null_count} of {len(column)} rows")
    if types.is_floating(kind):
        bits = column.cast(pa.float64()).to_numpy().view(np.uint64)
        # IEEE 754: positive numbers sort as their bits, negative ones the other way round.
        return np.asarray(np.where(bits & _SIGN, ~bits, bits ^ _SIGN))
    return np.asarray(column.cast(pa.int64()).to_numpy().view(np.uint64) ^ _SIGN)


def smallest(keys: npt.NDArray[np.uint64], k: int) -> np.uint64:
    """Returns the k-th smallest key (from 0), fixing 16 bits of it in each pass over the keys."""
    prefix = np.uint64(0)
    for shift in np.array([48, 32, 16, 0], np.uint64):
        counts = np.zeros(1 << 16, np.int64)
        for start in range(0, len(keys), 1 << 20):
            rest = keys[start : start + (1 << 20)] >> shift
            rest = rest[rest >> np.uint64(16) == prefix]
            digits = (rest & np.uint64(0xFFFF)).astype(np.int64)
            counts += np.bincount(digits, minlength=1 << 16)
        below = np.cumsum(counts)
        digit = int(np.searchsorted(below, k, side="right"))
        k -= int(below[digit] - counts[digit])
        prefix = (prefix << np.uint64(16)) | np.uint64(digit)
    return prefix


def _distinct(column: pa.ChunkedArray) -> pa.DictionaryArray:
    values = columns.plain(column.combine_chunks())
    if not (columns.is_text(values.type) or types.is_integer(values.type)):
        raise ValueError(f"the column holds {values.type}, not strings or integers")
    return values.dictionary_encode()


def _limit(fraction: float) -> np.uint64:
    return np.uint64(int(fraction * 2.0**64))
