"""Encoded rows to batches, without a loop over rows."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
from torch import Tensor
from torchrec import KeyedJaggedTensor

from tzrec_core.batch import NULL_ID, Batch
from tzrec_core.data.flat import bags, dense_numbers, joined
from tzrec_core.features.schema import BatchSchema, Feature, id_column, slice_column

ROW_COLUMN = "@row"
"""The column of ``Batch.rows``, if there is one."""


def collate(table: pa.Table, schema: BatchSchema, position: Mapping[int, int]) -> Batch:
    """Makes a batch of the rows of ``table``; its tensors share no memory with the table.

    Args:
        table: Rows in the form that ``encode`` returns, perhaps with ``ROW_COLUMN``.
        schema: The one that they were encoded with.
        position: ``Batch.position``.
    """
    group_ids = {key: table[id_column(key)].fill_null(NULL_ID) for key in schema.group_keys}
    return Batch(
        dense=dense_numbers(table, schema),
        sparse=_keyed(table, schema.sparse_features),
        weighted=_keyed(table, schema.weighted_features),
        labels={name: _tensor(table[name]) for name in schema.labels},
        sample_weights={name: _tensor(table[name]).float() for name in schema.sample_weights},
        group_ids={key: _tensor(ids) for key, ids in group_ids.items()},
        position=dict(position),
        slices={name: table[slice_column(name)] for name in schema.slices},
        rows=_tensor(table[ROW_COLUMN]) if ROW_COLUMN in table.column_names else None,
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
    empty |= {slice_column(name): pa.array([], pa.string()) for name in schema.slices}
    return collate(pa.table(empty), schema, {})


def _keyed(table: pa.Table, features: Sequence[Feature]) -> KeyedJaggedTensor | None:
    """Returns the ids of ``features``, which all carry weights or all do not."""
    if not features:
        return None
    ids = bags(table, features)
    return KeyedJaggedTensor(
        keys=[feature.name for feature in features],
        values=ids.values,
        lengths=ids.lengths,
        weights=ids.weights,
        stride=table.num_rows,
    )


def _tensor(column: pa.ChunkedArray) -> Tensor:
    dtype = column.type.to_pandas_dtype()
    return joined((chunk.to_numpy() for chunk in column.chunks), dtype)
