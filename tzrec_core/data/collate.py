"""Encoded rows to batches, without a loop over rows."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import types
from torch import Tensor
from torchrec import KeyedJaggedTensor

from tzrec_core.batch import NULL_ID, Batch
from tzrec_core.features.columns import lists
from tzrec_core.features.schema import BatchSchema, Feature, id_column


def collate(table: pa.Table, schema: BatchSchema, position: Mapping[int, int]) -> Batch:
    """Makes a batch of the rows of ``table``; its tensors share no memory with the table.

    Args:
        table: Rows in the form that ``encode`` returns.
        schema: The one that they were encoded with.
        position: ``Batch.position``.
    """
    group_ids = {key: table[id_column(key)].fill_null(NULL_ID) for key in schema.group_keys}
    return Batch(
        dense=_dense(table, schema),
        sparse=_keyed(table, schema.sparse_features),
        weighted=_keyed(table, schema.weighted_features),
        labels={name: _tensor(table[name]) for name in schema.labels},
        sample_weights={name: _tensor(table[name]).float() for name in schema.sample_weights},
        group_ids={key: _tensor(ids) for key, ids in group_ids.items()},
        position=dict(position),
    )


def empty_batch(schema: BatchSchema) -> Batch:
    """Returns a batch of no rows; its labels are float32."""
    ids = pa.array([], pa.int64())
    weighted_ids = pa.array([], pa.map_(pa.int64(), pa.float32()))
    empty = {f.name: weighted_ids if f.weighted else ids for f in schema.features if f.is_sparse}
    empty |= {f.name: pa.array([], pa.list_(pa.float32(), f.width)) for f in schema.dense_features}
    numbers = pa.array([], pa.float32())
    empty |= dict.fromkeys((*schema.labels, *schema.sample_weights), numbers)
    empty |= {id_column(key): ids for key in schema.group_keys}
    return collate(pa.table(empty), schema, {})


class _Bags(NamedTuple):
    """The ids of some rows of one feature."""

    values: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None


def _dense(table: pa.Table, schema: BatchSchema) -> Tensor:
    dense = np.empty((table.num_rows, schema.width), np.float32)
    stop = 0
    for feature in schema.dense_features:
        start, stop = stop, stop + feature.width
        row = 0
        for chunk in table[feature.name].chunks:
            flat = chunk.flatten() if types.is_fixed_size_list(chunk.type) else chunk
            numbers = flat.to_numpy().reshape(len(chunk), feature.width)
            dense[row : row + len(chunk), start:stop] = numbers
            row += len(chunk)
    return torch.from_numpy(dense)


def _keyed(table: pa.Table, features: Sequence[Feature]) -> KeyedJaggedTensor | None:
    """Returns the ids of ``features``, which all carry weights or all do not."""
    if not features:
        return None
    bags = [_bags(chunk) for feature in features for chunk in table[feature.name].chunks]
    weights = [bag.weights for bag in bags if bag.weights is not None]
    return KeyedJaggedTensor(
        keys=[feature.name for feature in features],
        values=_joined((bag.values for bag in bags), np.int64),
        lengths=_joined((bag.lengths for bag in bags), np.int32),
        weights=_joined(weights, np.float32) if features[0].weighted else None,
        stride=table.num_rows,
    )


def _bags(chunk: pa.Array) -> _Bags:
    if types.is_map(chunk.type):
        rows = lists(chunk)
        ids, weights = rows.values.flatten()
        lengths = np.diff(rows.offsets).astype(np.int32)
        return _Bags(ids.to_numpy(), lengths, weights.to_numpy())
    if types.is_list(chunk.type):
        rows = lists(chunk)
        return _Bags(rows.values.to_numpy(), np.diff(rows.offsets).astype(np.int32), None)
    if chunk.null_count == 0:
        return _Bags(chunk.to_numpy(), np.ones(len(chunk), np.int32), None)
    lengths = chunk.is_valid().to_numpy(zero_copy_only=False).astype(np.int32)
    return _Bags(chunk.drop_null().to_numpy(), lengths, None)


def _tensor(column: pa.ChunkedArray) -> Tensor:
    dtype = column.type.to_pandas_dtype()
    return _joined((chunk.to_numpy() for chunk in column.chunks), dtype)


def _joined(parts: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike) -> Tensor:
    """Returns a copy of the parts one after the other: Arrow's memory must not be written to."""
    return torch.from_numpy(np.concatenate([np.empty(0, dtype), *parts]))
