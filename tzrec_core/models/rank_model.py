"""A ranking model: embeddings, which may be sharded, and a network above them."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torchrec import KeyedJaggedTensor, KeyedTensor

from tzrec_core.batch import Batch
from tzrec_core.modules.embedding import PooledEmbeddings
from tzrec_core.modules.gradient_gate import GradientGate

Logits = Tensor | dict[str, Tensor]


class Head(nn.Module):
    """Everything above the embeddings.

    TorchRec's pipelines trace the model to find the inputs of sharded modules. This module has no
    sharded child, so it is a leaf of the trace and may do what tracing cannot follow.

    Args:
        network: A module that takes lists of tensors, ``network(dense, deep, wide)``, and returns
            [B, num_class] logits, or those of several tasks by name. ``dense[i]`` [B, width] is
            dense feature i, ``deep[i]`` and ``wide[i]`` [B, dim] are the pooled embeddings of the
            i-th deep and wide feature.
        dense_widths: Widths of all dense features in the order of ``Batch.dense``.
        deep_features: Names of the deep features in the network's order.
        wide_features: Names of the wide features in the network's order.
        weighted_means: Names of the features with weighted ids whose pooling is the mean: the
            weighted sum divided by the number of ids.

    Attributes:
        gate: What embeddings come through.
        training_dtype: What the network multiplies matrices in during training; None, as in
            evaluation: float32, which is what an exported model computes in. Logits are float32.
    """

    def __init__(
        self,
        network: nn.Module,
        *,
        dense_widths: Sequence[int],
        deep_features: Sequence[str],
        wide_features: Sequence[str],
        weighted_means: Sequence[str],
    ) -> None:
        super().__init__()
        self.network = network
        self.dense_widths = list(dense_widths)
        self.deep_features = list(deep_features)
        self.wide_features = list(wide_features)
        self.weighted_means = list(weighted_means)
        self.gate = GradientGate()
        self.training_dtype: torch.dtype | None = None

    def forward(
        self,
        dense: Tensor,
        deep: Sequence[KeyedTensor],
        wide: Sequence[KeyedTensor],
        weighted: KeyedJaggedTensor | None,
    ) -> Logits:
        deep_by_key, wide_by_key = _split(self.gate(deep)), _split(self.gate(wide))
        for name in self.weighted_means:
            assert weighted is not None
            counts = weighted.lengths().view(len(weighted.keys()), len(dense))
            divisor = counts[weighted.keys().index(name)].clamp(min=1).unsqueeze(1)
            for by_key in (deep_by_key, wide_by_key):
                if name in by_key:
                    by_key[name] = by_key[name] / divisor
        dtype = self.training_dtype if self.training else None
        # Entered anew for each batch: it keeps rounded copies of the weights until it is left.
        with torch.autocast(dense.device.type, dtype=dtype, enabled=dtype is not None):
            logits: Logits = self.network(
                list(torch.split(dense, self.dense_widths, dim=1)),
                [deep_by_key[name] for name in self.deep_features],
                [wide_by_key[name] for name in self.wide_features],
            )
        if isinstance(logits, dict):
            return {task: of_task.float() for task, of_task in logits.items()}
        return logits.float()


class RankModel(nn.Module):
    """Batch to [B, num_class] logits, of one task or of several by name."""

    def __init__(self, embeddings: PooledEmbeddings, head: Head) -> None:
        super().__init__()
        self.embeddings = embeddings
        self.head = head

    def forward(self, batch: Batch) -> Logits:
        deep, wide = self.embeddings(batch.sparse, batch.weighted)
        logits: Logits = self.head(batch.dense, deep, wide, batch.weighted)
        return logits


def _split(tensors: Sequence[KeyedTensor]) -> dict[str, Tensor]:
    # By key, because sharding reorders keys; all at once, because the backward of a slice per key
    # fills and adds a whole tensor for each.
    return {
        key: part
        for tensor in tensors
        for key, part in zip(
            tensor.keys(),
            torch.split(tensor.values(), tensor.length_per_key(), dim=1),
            strict=True,
        )
    }
