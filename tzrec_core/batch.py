"""The batch that models, losses and metrics see."""

import dataclasses
from dataclasses import dataclass, field

import pyarrow as pa
import torch
from torch import Tensor
from torchrec import KeyedJaggedTensor
from torchrec.streamable import Pipelineable

NULL_ID = -(2**63)
"""The group id of a row whose grouping key is null."""


@dataclass
class Batch(Pipelineable):
    """``B`` rows, ready for the model.

    Attributes:
        dense: [B, sum of the dense widths] float32, dense features in schema order.
        sparse: Ids of the features without weights, keys in schema order; lengths are int32 and
            values int64. None if the schema has no such feature.
        weighted: Ids of the features whose ids carry weights, with float32 weights; else None.
        labels: [B] float32 or int64 by label name.
        sample_weights: [B] float32 by the name of the weight.
        group_ids: [B] int64 by grouping key, ``NULL_ID`` where the key is null.
        position: Rows consumed of each window of the data once this batch is.
        normalizer: float32, the divisors of the summed losses, one for each task: the sum of the
            loss weights over all ranks divided by the number of ranks; None where each rank stands
            alone.
        share: float32, for each task this batch's part, in loss weight over all ranks, of the
            batches whose gradients are accumulated; None where there is nothing to share.
        completes_step: Whether it is the last one of those.
        slices: [B] values by the column's name, which parts of the rows are made by; they stay on
            the host.
        rows: [B] int64, which row of the input each is, equal on any number of ranks; None where
            the dataset was not asked to number them.
    """

    dense: Tensor
    sparse: KeyedJaggedTensor | None
    weighted: KeyedJaggedTensor | None
    labels: dict[str, Tensor]
    sample_weights: dict[str, Tensor]
    group_ids: dict[str, Tensor]
    position: dict[int, int]
    normalizer: Tensor | None = None
    share: Tensor | None = None
    completes_step: bool = True
    slices: dict[str, pa.ChunkedArray] = field(default_factory=dict)
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.dense)

    def ids(self, key: str) -> Tensor:
        """Returns the [B] int64 group ids of grouping key ``key``."""
        if key not in self.group_ids:
            raise ValueError(f"grouping key must be one of {sorted(self.group_ids)}, got {key!r}")
        return self.group_ids[key]

    def to(self, device: torch.device, non_blocking: bool = False) -> "Batch":
        def move(tensor: Tensor) -> Tensor:
            return tensor.to(device, non_blocking=non_blocking)

        def move_ids(ids: KeyedJaggedTensor | None) -> KeyedJaggedTensor | None:
            return None if ids is None else ids.to(device, non_blocking=non_blocking)

        return dataclasses.replace(
            self,
            dense=move(self.dense),
            sparse=move_ids(self.sparse),
            weighted=move_ids(self.weighted),
            labels={name: move(label) for name, label in self.labels.items()},
            sample_weights={name: move(weight) for name, weight in self.sample_weights.items()},
            group_ids={key: move(ids) for key, ids in self.group_ids.items()},
            normalizer=None if self.normalizer is None else move(self.normalizer),
            share=None if self.share is None else move(self.share),
        )

    def pin_memory(self) -> "Batch":
        """Returns the batch in page-locked memory, from which a GPU copies asynchronously."""
        return dataclasses.replace(
            self,
            dense=self.dense.pin_memory(),
            sparse=None if self.sparse is None else self.sparse.pin_memory(),
            weighted=None if self.weighted is None else self.weighted.pin_memory(),
            labels={name: label.pin_memory() for name, label in self.labels.items()},
            sample_weights={name: w.pin_memory() for name, w in self.sample_weights.items()},
            group_ids={key: ids.pin_memory() for key, ids in self.group_ids.items()},
            normalizer=None if self.normalizer is None else self.normalizer.pin_memory(),
            share=None if self.share is None else self.share.pin_memory(),
        )

    def record_stream(self, stream: torch.Stream) -> None:
        parts = [self.dense, self.sparse, self.weighted, self.normalizer, self.share]
        parts += [*self.labels.values(), *self.sample_weights.values(), *self.group_ids.values()]
        for part in parts:
            if part is not None:
                part.record_stream(stream)
