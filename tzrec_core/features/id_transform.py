"""Id features: values of a column to rows of an embedding table."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import types

from tzrec_core.features import columns
from tzrec_core.features.columns import Lists
from tzrec_core.features.schema import FeatureCounts

Lookup = Callable[[pa.Array], pa.Array]
"""From ``id_values`` to int64 ids of the same length: null for null and for unknown values."""


def id_values(values: pa.Array) -> pa.Array:
    """Returns values that may stand for ids in one of the forms that a ``Lookup`` takes.

    These are dictionary-encoded strings, int64 and uint64. "" and NaN become null.

    Raises:
        ValueError: The values are of another kind, or floats that are no integers.
    """
    values = columns.plain(values)
    if columns.is_text(values.type):
        encoded = values.dictionary_encode()
        empty = pc.index(encoded.dictionary, pa.scalar("", encoded.dictionary.type)).as_py()
        if empty < 0:
            return encoded
        indices = encoded.indices
        indices = pc.if_else(pc.equal(indices, empty), pa.scalar(None, indices.type), indices)
        return pa.DictionaryArray.from_arrays(indices, encoded.dictionary)
    if types.is_floating(values.type):
        return _integers(values)
    if types.is_uint64(values.type):
        return values
    if types.is_integer(values.type) or types.is_boolean(values.type):
        return values.cast(pa.int64())
    raise ValueError(f"ids must be integers, strings or lists of them, got {values.type}")


def _integers(values: pa.Array) -> pa.Array:
    floats = columns.numbers(values)
    valid = ~np.isnan(floats)
    fits = np.abs(floats, where=valid, out=np.zeros_like(floats)) < 2.0**63
    wrong = valid & ~(fits & (np.trunc(floats) == floats))
    if wrong.any():
        raise ValueError(f"ids must be integers, got {floats[wrong][0]} in a column of floats")
    return pa.array(np.where(valid, floats, 0).astype(np.int64), mask=~valid)


def in_range(values: pa.Array, num_ids: int) -> pa.Array:
    """Returns integers, or strings that spell them, as ids; null where not in [0, num_ids).

    Raises:
        ValueError: A string is not an integer.
    """
    if types.is_dictionary(values.type):
        return in_range(_spelled(values.dictionary), num_ids).take(values.indices)
    extremes = pc.min_max(values).as_py()
    if extremes["min"] is None or (extremes["min"] >= 0 and extremes["max"] < num_ids):
        return values.cast(pa.int64())
    limit = pa.scalar(num_ids, values.type)
    inside = pc.and_(pc.greater_equal(values, pa.scalar(0, values.type)), pc.less(values, limit))
    return pc.if_else(inside, values, pa.scalar(None, values.type)).cast(pa.int64())


def _spelled(text: pa.Array) -> pa.Array:
    wrong = text.filter(pc.invert(pc.match_substring_regex(text, "^-?[0-9]{1,18}$")))
    # "" stands for null and is no row's value.
    wrong = wrong.filter(pc.not_equal(wrong, ""))
    if len(wrong):
        raise ValueError(f"ids must be integers of at most 18 digits, got {wrong[0].as_py()!r}")
    return pc.if_else(pc.equal(text, ""), pa.scalar(None, text.type), text).cast(pa.int64())


@dataclass(frozen=True)
class IdTransform:
    """Encodes a column of ids.

    Integers, and strings if ``single``, become int64 with null where there is no id; lists, and
    strings that hold several values, become list<int64>; weighted ids map<int64, float>.

    Attributes:
        lookup: From values to ids.
        unknown_id: The id of values that ``lookup`` does not know; None drops them.
        separator: Between the values of one string.
        single: A string is one value.
        weighted: Values are ids with weights.
        default_ids: Ids of a row that has none.
        default_weights: Their weights if weighted, else empty.
    """

    lookup: Lookup
    unknown_id: int | None
    separator: str
    single: bool
    weighted: bool
    default_ids: tuple[int, ...] = ()
    default_weights: tuple[float, ...] = ()

    def __call__(self, column: pa.Array) -> tuple[pa.Array, FeatureCounts]:
        column = columns.plain(column)
        if self.weighted:
            return self._weighted(column)
        if columns.is_text(column.type) and not self.single:
            column = columns.split(column, self.separator)
        if columns.is_list(column.type):
            return self._lists(columns.lists(column))
        return self._scalars(column)

    def _scalars(self, column: pa.Array) -> tuple[pa.Array, FeatureCounts]:
        values = id_values(column)
        ids, num_unknown = self._ids(values)
        if self.default_ids and ids.null_count:
            if len(self.default_ids) > 1:
                raise ValueError(
                    f"rows have one value, but default_value has ids {self.default_ids}"
                )
            ids = ids.fill_null(self.default_ids[0])
        num_values = len(values) - values.null_count
        return ids, FeatureCounts(len(values), values.null_count, num_values, num_unknown)

    def _lists(self, rows: Lists) -> tuple[pa.Array, FeatureCounts]:
        rows = Lists(rows.offsets, id_values(rows.values))
        ids, num_unknown = self._ids(rows.values)
        found = columns.without_nulls(Lists(rows.offsets, ids))
        found = columns.fill_empty(found, pa.array(self.default_ids, pa.int64()))
        return columns.list_array(found), _counts(rows, num_unknown)

    def _weighted(self, column: pa.Array) -> tuple[pa.Array, FeatureCounts]:
        rows, weights = weighted_values(column, self.separator)
        ids, num_unknown = self._ids(rows.values)
        entries = pa.StructArray.from_arrays([ids, weights], ["key", "value"], mask=ids.is_null())
        default = pa.StructArray.from_arrays(
            [pa.array(self.default_ids, pa.int64()), pa.array(self.default_weights, pa.float32())],
            ["key", "value"],
        )
        found = columns.fill_empty(columns.without_nulls(Lists(rows.offsets, entries)), default)
        keys, items = found.values.flatten()
        encoded = pa.MapArray.from_arrays(columns.offsets32(found.offsets), keys, items)
        return encoded, _counts(rows, num_unknown)

    def _ids(self, values: pa.Array) -> tuple[pa.Array, int]:
        """Returns the ids of ``id_values`` and how many of them are unknown."""
        ids = self.lookup(values)
        num_unknown = ids.null_count - values.null_count
        if num_unknown and self.unknown_id is not None:
            known_or_missing = pc.or_(ids.is_valid(), values.is_null())
            ids = pc.if_else(known_or_missing, ids, pa.scalar(self.unknown_id, pa.int64()))
        return ids, num_unknown


def _counts(rows: Lists, num_unknown: int) -> FeatureCounts:
    lengths = np.diff(columns.without_nulls(rows).offsets)
    num_empty = int((lengths == 0).sum())
    return FeatureCounts(len(lengths), num_empty, int(lengths.sum()), num_unknown)


def with_default(transform: IdTransform, text: str) -> IdTransform:
    """Returns ``transform`` with the default that ``text`` spells in the form of a raw value.

    The weight of a default id is 1 where the text has none; "" is no default.

    Raises:
        ValueError: The default has no id.
    """
    if not text:
        return transform
    values = text.split(transform.separator)
    if transform.weighted:
        values = [value if ":" in value else f"{value}:1" for value in values]
    value = text if transform.single else transform.separator.join(values)
    row, counts = transform(pa.array([value]))
    if counts.out_of_vocabulary and transform.unknown_id is None:
        raise ValueError(f"the default {text!r} is out of the range of ids")
    if transform.single:
        return replace(transform, default_ids=(row[0].as_py(),))
    if not transform.weighted:
        return replace(transform, default_ids=tuple(row[0].as_py()))
    pairs = row[0].as_py()
    return replace(
        transform,
        default_ids=tuple(key for key, _ in pairs),
        default_weights=tuple(weight for _, weight in pairs),
    )


def weighted_values(column: pa.Array, separator: str) -> tuple[Lists, pa.Array]:
    """Returns the ids per row as ``id_values``, and the weights of all rows as float32.

    Args:
        column: Strings of "id:weight" with ``separator`` between (an id may have colons), lists
            of such strings, maps from id to weight, or lists of structs of id and weight.
        separator: Between the pairs of one string.

    Raises:
        ValueError: A weight is missing or not a finite number, or the column is of another type.
    """
    kind = column.type
    if columns.is_text(kind):
        column = columns.split(column, separator)
    elif not (types.is_map(kind) or columns.is_list(kind)):
        raise ValueError(
            "weighted ids must be maps, lists of structs, or strings of id:weight, "
            f"got {kind}, which has no weights"
        )
    rows = columns.lists(column)
    pairs = columns.plain(rows.values)
    if columns.is_text(pairs.type):
        ids, weights = _text_pairs(pairs)
    elif types.is_struct(pairs.type) and pairs.type.num_fields == 2:
        ids, weights = pairs.flatten()
    else:
        raise ValueError(f"weighted ids must come with their weights, got lists of {pairs.type}")
    values = id_values(ids)
    numbers = columns.numbers(weights).astype(np.float32)
    wrong = values.is_valid().to_numpy(zero_copy_only=False) & ~np.isfinite(numbers)
    if wrong.any():
        example = _first(ids, wrong), _first(weights, wrong)
        raise ValueError(
            f"the weight of id {example[0]!r} must be a finite number, got {example[1]!r}"
        )
    return Lists(rows.offsets, values), pa.array(numbers)


def _text_pairs(pairs: pa.Array) -> tuple[pa.Array, pa.Array]:
    """Splits each "id:weight" at its last colon."""
    pairs = pc.if_else(pc.equal(pairs, ""), pa.scalar(None, pairs.type), pairs)
    parts = pc.extract_regex(pairs, r"(?s)^(?P<id>.*):(?P<weight>[^:]*)$")
    wrong = pc.and_(parts.is_null(), pairs.is_valid()).to_numpy(zero_copy_only=False)
    if wrong.any():
        raise ValueError(f"weighted ids must be id:weight, got {_first(pairs, wrong)!r}")
    ids, weights = parts.flatten()
    return ids, weights


def _first(values: pa.Array, where: npt.NDArray[np.bool_]) -> object:
    return values[int(np.flatnonzero(where)[0])].as_py()
