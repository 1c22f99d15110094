"""Raw tables to encoded tables: the one path of data preparation, loading and serving."""

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from tzrec_core.features import columns
from tzrec_core.features.hashing import hash_text
from tzrec_core.features.id_transform import id_values
from tzrec_core.features.schema import (
    BatchSchema,
    Feature,
    FeatureCounts,
    cost_column,
    cost_source,
    id_column,
    slice_column,
    slice_source,
)


class Encoded(NamedTuple):
    """A table in encoded form, and what encoding met in it by feature."""

    table: pa.Table
    counts: dict[str, FeatureCounts]


def encode(raw: pa.Table, schema: BatchSchema) -> Encoded:
    """Encodes the columns that ``schema`` needs; what is encoded already stays as it is.

    The result has a column per feature, label, sample weight, grouping key and cost, in this order:
    sparse features int64 (null is no id), list<int64> or, weighted, map<int64, float>; dense
    features float32 or fixed_size_list<float32>; labels int64 or float32; weights float32;
    the ids of grouping key ``k`` int64 under ``k@id``; the cost ``c`` float64 under ``c@cost``; the
    slice ``s`` under ``s@slice`` as text, whole or other numbers, with nulls.
    Rows keep their order.

    Raises:
        ValueError: A column is missing, of an unusable type, or has an unacceptable value: then
            the message names feature, column and an example.
    """
    schema.raw_columns(raw.column_names)
    encoded: dict[str, pa.ChunkedArray] = {}
    counts: dict[str, FeatureCounts] = {}
    for feature in schema.features:
        encoded[feature.name], counts[feature.name] = _encode_feature(raw[feature.column], feature)
    for name in schema.labels:
        # In one piece, so that an error counts the rows of the whole table.
        column = raw[name].combine_chunks()
        encoded[name] = _convert([column], f"label, column {name!r}", _label)
    for name in schema.sample_weights:
        column = raw[name].combine_chunks()
        weight = _convert([column], f"sample weight, column {name!r}", _weight)
        # A column that is label and weight is stored as the label, which holds it exactly.
        encoded.setdefault(name, weight)
    for key in schema.group_keys:
        source = schema.group_column(key, raw.column_names)
        name = f"grouping key {key!r}, column {source!r}"
        encoded[id_column(key)] = _convert(_chunks(raw[source]), name, group_ids)
    if schema.sample_cost is not None:
        source = cost_source(schema.sample_cost, raw.column_names)
        cost = _convert([raw[source].combine_chunks()], f"sample cost, column {source!r}", _cost)
        encoded[cost_column(schema.sample_cost)] = cost
    for column in schema.slices:
        source = slice_source(column, raw.column_names)
        name = f"slice, column {source!r}"
        encoded[slice_column(column)] = _convert(_chunks(raw[source]), name, _slice)
    return Encoded(pa.table(encoded), counts)


def group_ids(column: pa.Array) -> pa.Array:
    """Returns an int64 per row that is equal where keys are, null for null and "".

    An integer is its own id (above 2**63 less 2**64), a string its XXH64 read as signed.
    """
    values = id_values(column)
    if types.is_dictionary(values.type):
        return pa.array(hash_text(values.dictionary).view(np.int64)).take(values.indices)
    return values.view(pa.int64())


def _encode_feature(
    column: pa.ChunkedArray, feature: Feature
) -> tuple[pa.ChunkedArray, FeatureCounts]:
    try:
        parts = [feature.transform(chunk) for chunk in _chunks(column)]
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"feature {feature.name!r}, column {feature.column!r}: {error}") from None
    return pa.chunked_array([part for part, _ in parts]), sum(
        (counts for _, counts in parts), FeatureCounts()
    )


def _convert(
    chunks: Iterable[pa.Array], name: str, function: Callable[[pa.Array], pa.Array]
) -> pa.ChunkedArray:
    try:
        return pa.chunked_array([function(chunk) for chunk in chunks])
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{name}: {error}") from None


def _chunks(column: pa.ChunkedArray) -> list[pa.Array]:
    """Returns the chunks with rows; of an empty column one empty chunk, which has the type."""
    return [chunk for chunk in column.chunks if len(chunk)] or [column.combine_chunks()]


def _label(column: pa.Array) -> pa.Array:
    column = _present(column)
    if types.is_integer(column.type) or types.is_boolean(column.type):
        return column.cast(pa.int64())
    return _finite(column)


def _slice(column: pa.Array) -> pa.Array:
    """Returns values of one type per kind, so that the files of an input agree."""
    kind = column.type.value_type if types.is_dictionary(column.type) else column.type
    if types.is_string(kind) or types.is_large_string(kind) or types.is_boolean(kind):
        return column.cast(pa.string())
    if types.is_integer(kind):
        return column.cast(pa.int64())
    if types.is_floating(kind):
        return column.cast(pa.float64())
    raise ValueError(f"must hold text, numbers or booleans, is {column.type}")


def _weight(column: pa.Array) -> pa.Array:
    weights = _finite(_present(column))
    lowest = pc.min(weights).as_py()
    if lowest is not None and lowest < 0:
        raise ValueError(f"must be 0 or more, got {lowest}")
    return weights


def _cost(column: pa.Array) -> pa.Array:
    costs = columns.numbers(_present(column))
    wrong = ~(np.isfinite(costs) & (costs >= 0))
    if wrong.any():
        raise ValueError(
            f"must be finite and 0 or more, got {costs[wrong][0]} among {wrong.sum()} such "
            f"of {len(costs)} rows"
        )
    return pa.array(costs)


def _present(column: pa.Array) -> pa.Array:
    if types.is_dictionary(column.type):
        column = columns.plain(column)
    if not columns.is_number(column.type):
        raise ValueError(f"must be integers, floats or booleans, got {column.type}")
    if column.null_count:
        raise ValueError(f"is null in {column.null_count} of {len(column)} rows")
    return column


def _finite(column: pa.Array) -> pa.Array:
    numbers = columns.numbers(column)
    with np.errstate(over="ignore"):
        converted = numbers.astype(np.float32)
    wrong = ~np.isfinite(converted)
    if wrong.any():
        raise ValueError(
            f"must be finite as float32, got {numbers[wrong][0]} among {wrong.sum()} such "
            f"of {len(numbers)} rows"
        )
    return pa.array(converted)
