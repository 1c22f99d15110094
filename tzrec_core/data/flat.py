"""Encoded rows as flat tensors, without a loop over rows; a served model takes them as they are."""

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from pyarrow import types
from torch import Tensor

from tzrec_core.features.columns import lists
from tzrec_core.features.schema import BatchSchema, Feature


class Bags(NamedTuple):
    """The ids of B rows of F features, feature by feature, and within one row by row."""

    values: Tensor
    """[V] int64."""
    lengths: Tensor
    """[F * B] int32, the number of ids."""
    weights: Tensor | None
    """[V] float32; None if ids carry no weights."""


def dense_numbers(table: pa.Table, schema: BatchSchema) -> Tensor:
    """Returns the dense features as [B, sum of their widths] float32, in schema order."""
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


def bags(table: pa.Table, features: Sequence[Feature]) -> Bags:
    """Returns the ids of ``features``, at least one, which all carry weights or all do not."""
    chunks = [_bags(chunk) for feature in features for chunk in table[feature.name].chunks]
    weights = [chunk.weights for chunk in chunks if chunk.weights is not None]
    return Bags(
        values=joined((chunk.values for chunk in chunks), np.int64),
        lengths=joined((chunk.lengths for chunk in chunks), np.int32),
        weights=joined(weights, np.float32) if features[0].weighted else None,
    )


def joined(parts: Iterable[npt.NDArray[Any]], dtype: npt.DTypeLike) -> Tensor:
    """Returns a copy of the parts one after the other: Arrow's memory must not be written to."""
    return torch.from_numpy(np.concatenate([np.empty(0, dtype), *parts]))


class _Chunk(NamedTuple):
    """The ids of some rows of one feature."""

    values: npt.NDArray[np.int64]
    lengths: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32] | None


def _bags(chunk: pa.Array) -> _Chunk:
    if types.is_map(chunk.type):
        rows = lists(chunk)
        ids, weights = rows.values.flatten()
        lengths = np.diff(rows.offsets).astype(np.int32)
        return _Chunk(ids.to_numpy(), lengths, weights.to_numpy())
    if types.is_list(chunk.type):
        rows = lists(chunk)
        return _Chunk(rows.values.to_numpy(), np.diff(rows.offsets).astype(np.int32), None)
    if chunk.null_count == 0:
        return _Chunk(chunk.to_numpy(), np.ones(len(chunk), np.int32), None)
    lengths = chunk.is_valid().to_numpy(zero_copy_only=False).astype(np.int32)
    return _Chunk(chunk.drop_null().to_numpy(), lengths, None)
