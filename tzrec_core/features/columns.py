"""What kinds of Arrow columns are accepted, and how they become flat values per row."""

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types


class Lists(NamedTuple):
    """Rows of any number of values: row ``i`` is ``values[offsets[i]:offsets[i + 1]]``."""

    offsets: npt.NDArray[np.int64]
    """[rows + 1], from 0 to the number of values."""
    values: pa.Array
    """The values of all rows; single ones may be null."""


def is_text(kind: pa.DataType) -> bool:
    """Returns whether a column of type ``kind`` holds strings, or bytes that must be UTF-8."""
    return bool(
        types.is_string(kind)
        or types.is_large_string(kind)
        or types.is_string_view(kind)
        or types.is_binary(kind)
        or types.is_large_binary(kind)
        or types.is_binary_view(kind)
    )


def is_number(kind: pa.DataType) -> bool:
    """Returns whether a column of type ``kind`` holds numbers; booleans are 0 and 1."""
    return bool(
        types.is_integer(kind)
        or types.is_floating(kind)
        or types.is_boolean(kind)
        or types.is_decimal(kind)
    )


def is_list(kind: pa.DataType) -> bool:
    """Returns whether a column of type ``kind`` holds lists of anything."""
    return bool(types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind))


def plain(column: pa.Array) -> pa.Array:
    """Returns ``column`` without dictionary encoding; a column that is only null holds strings.

    Raises:
        ValueError: Bytes are not UTF-8.
    """
    kind = column.type
    if types.is_dictionary(kind):
        column = column.cast(kind.value_type)
        kind = column.type
    if types.is_null(kind) or (is_text(kind) and not types.is_large_string(kind)):
        # Offsets of 64 bits hold any number of bytes, so nothing after this can overflow.
        return column.cast(pa.large_string())
    return column


def numbers(column: pa.Array) -> npt.NDArray[np.float64]:
    """Returns numbers, or strings that spell numbers, as float64; null and "" become NaN.

    Raises:
        ValueError: The column holds something else.
    """
    kind, column = column.type, plain(column)
    if is_text(column.type):
        column = pc.if_else(pc.equal(column, ""), pa.scalar(None, column.type), column)
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid as error:
            raise ValueError(f"values must be numbers: {error}") from None
    elif types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    elif not is_number(column.type):
        raise ValueError(f"values must be numbers or strings that spell them, got {kind}")
    return np.asarray(column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))


def split(column: pa.Array, separator: str) -> pa.Array:
    """Returns a column of strings as a column of lists of strings."""
    return pc.split_pattern(column, pattern=separator)


def lists(column: pa.Array) -> Lists:
    """Returns the rows of a column of lists or maps; a null row has no values.

    The values of a map are structs of key and value.
    """
    if types.is_map(column.type):
        entry = pa.struct([("key", column.type.key_type), ("value", column.type.item_type)])
        column = column.cast(pa.list_(entry))
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy().astype(np.int64)
    return Lists(offsets_of(lengths), column.flatten())


def offsets_of(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Returns where each row's values begin, and behind the last one where they all end."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)])


def without_nulls(rows: Lists) -> Lists:
    """Returns the rows with the values that are null left out."""
    if rows.values.null_count == 0:
        return rows
    valid = rows.values.is_valid().to_numpy(zero_copy_only=False)
    return Lists(offsets_of(valid.astype(np.int64))[rows.offsets], rows.values.drop_null())


def fill_empty(rows: Lists, default: pa.Array) -> Lists:
    """Returns the rows with each row that has no values given the values of ``default``."""
    lengths = np.diff(rows.offsets)
    empty = lengths == 0
    if len(default) == 0 or not empty.any():
        return rows
    offsets = offsets_of(np.where(empty, len(default), lengths))
    # The first position is a row's first value, or behind all values where the default begins.
    starts = np.where(empty, len(rows.values), rows.offsets[:-1])
    shift = np.repeat(starts - offsets[:-1], np.diff(offsets))
    both = pa.concat_arrays([rows.values, default.cast(rows.values.type)])
    return Lists(offsets, both.take(pa.array(shift + np.arange(len(shift)))))


def list_array(rows: Lists) -> pa.Array:
    """Returns the rows as an Arrow list column.

    Raises:
        ValueError: There are more values than 32-bit offsets can tell apart.
    """
    return pa.ListArray.from_arrays(offsets32(rows.offsets), rows.values)


def offsets32(offsets: npt.NDArray[np.int64]) -> pa.Array:
    """Returns offsets in the width that Arrow's lists and maps have."""
    if offsets[-1] > np.iinfo(np.int32).max:
        raise ValueError(f"{offsets[-1]} values in one chunk are too many; use smaller row groups")
    return pa.array(offsets.astype(np.int32))
