"""What a served model takes: the tensors of a batch, or of encoded rows."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import torch
from torch import Tensor

from tzrec_core.data.flat import Bags, bags, dense_numbers
from tzrec_core.features.schema import BatchSchema, Feature

if TYPE_CHECKING:  # TorchRec's, which serving does without
    from tzrec_core.batch import Batch

Inputs = tuple[Tensor, Tensor, Tensor, Tensor | None]
"""dense, values, lengths, weights: see ``models.serving.ServingModel``."""


def sparse_inputs(schema: BatchSchema) -> Sequence[Feature]:
    """Returns the sparse features in the order of the served model's inputs."""
    return (*schema.sparse_features, *schema.weighted_features)


def of_batch(batch: "Batch") -> Inputs:
    """Returns what the served model takes for a batch."""
    parts = [
        Bags(ids.values(), ids.lengths(), ids.weights_or_none())
        for ids in (batch.sparse, batch.weighted)
        if ids is not None
    ]
    return _inputs(batch.dense, parts)


def of_table(table: pa.Table, schema: BatchSchema) -> Inputs:
    """Returns what the served model takes for rows in the form that ``encode`` returns."""
    groups = (schema.sparse_features, schema.weighted_features)
    return _inputs(
        dense_numbers(table, schema), [bags(table, features) for features in groups if features]
    )


def _inputs(dense: Tensor, parts: Sequence[Bags]) -> Inputs:
    """Puts the ids without weights before those with weights."""
    if not parts:
        nothing = torch.zeros(0, dtype=torch.int64)
        return dense, nothing, nothing, None
    weights = None
    if any(part.weights is not None for part in parts):
        weights = torch.cat(
            [
                torch.ones(len(part.values)) if part.weights is None else part.weights
                for part in parts
            ]
        )
    values = torch.cat([part.values for part in parts])
    return dense, values, torch.cat([part.lengths for part in parts]), weights
