"""FBGEMM's kernel of embedding tables, and within it the update rules that it lacks on a CPU.

FBGEMM's own CPU kernel knows neither Adam nor LAMB, and it ignores weight decay.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import torch
from fbgemm_gpu.split_embedding_configs import EmbOptimType
from fbgemm_gpu.split_table_batched_embeddings_ops_common import PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import (
    SplitTableBatchedEmbeddingBagsCodegen,
)
from torch import Tensor
from torch.autograd.function import once_differentiable
from torchrec.distributed import batched_embedding_kernel

from tzrec_core.optim.tables.lookup import Lookup, Pooling
from tzrec_core.optim.tables.rows import RowRule, TableRows

COUNTED = frozenset(
    {
        EmbOptimType.ADAM,
        EmbOptimType.LAMB,
        EmbOptimType.PARTIAL_ROWWISE_ADAM,
        EmbOptimType.PARTIAL_ROWWISE_LAMB,
    }
)
"""FBGEMM's rules whose formula contains the number of updates."""

NUM_UPDATES = "iter"
"""The name of their number in a table's state."""

_POOLING = {
    PoolingMode.NONE: Pooling.NONE,
    PoolingMode.SUM: Pooling.SUM,
    PoolingMode.MEAN: Pooling.MEAN,
}


class TableKernel(SplitTableBatchedEmbeddingBagsCodegen):
    """A group of tables: looks rows up, and updates them in the backward pass.

    The number of updates is part of every table's state where the formula contains it: a training
    that is restored goes on with it, where FBGEMM would begin anew. Only lookups that are trained
    on count; FBGEMM counts those of an evaluation, too.

    Args:
        row_rule: A rule of ours, on a CPU; None leaves updates to FBGEMM.
        arguments: FBGEMM's. With a rule of ours its optimizer must be EXACT_SGD, which keeps
            nothing.
    """

    def __init__(self, *, row_rule: RowRule | None = None, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._row_rule = row_rule
        if row_rule is not None:
            assert self.use_cpu
            assert self.optimizer == EmbOptimType.EXACT_SGD
            assert self.weights_host.dtype == torch.float32
            self._tables = self._make_tables(row_rule)

    def _make_tables(self, rule: RowRule) -> list[TableRows]:
        assert self.feature_table_map == sorted(self.feature_table_map)
        tables, first, start = [], 0, 0
        for dim, specs in groupby(self.embedding_specs, key=lambda spec: spec[1]):
            nums_rows = [num_rows for num_rows, *_ in specs]
            last = first + len(nums_rows)
            tables.append(
                TableRows(
                    rule,
                    nums_rows=nums_rows,
                    dim=dim,
                    tables_of_features=[
                        table - first for table in self.feature_table_map if first <= table < last
                    ],
                    start=start,
                )
            )
            first, start = last, start + sum(nums_rows) * dim
        assert start == self.weights_host.numel()
        return tables

    def get_optimizer_state(self) -> list[dict[str, Tensor]]:
        """Returns for each table its states by name, sharing memory."""
        if self._row_rule is None:
            states = super().get_optimizer_state()
            is_counted = self.optimizer in COUNTED
        else:
            states = [state for tables in self._tables for state in tables.named_states()]
            is_counted = self._row_rule.is_counted
        return [{**state, NUM_UPDATES: self.iter} for state in states] if is_counted else states

    def forward(
        self,
        indices: Tensor,
        offsets: Tensor,
        per_sample_weights: Tensor | None = None,
        **others: Any,
    ) -> Tensor:
        output: Tensor
        if self._row_rule is not None:
            assert not others, f"not for a rule of ours: {list(others)}"
            output = _TrainedLookup.apply(
                self.placeholder_autograd_tensor, self, indices, offsets, per_sample_weights
            )
            return output
        if torch.is_grad_enabled():
            output = super().forward(indices, offsets, per_sample_weights, **others)
            return output
        num_updates = self.iter.clone(), self.iter_cpu.clone()
        output = super().forward(indices, offsets, per_sample_weights, **others)
        self.iter.copy_(num_updates[0])
        self.iter_cpu.copy_(num_updates[1])
        return output

    def look_up(self, indices: Tensor, offsets: Tensor, weights: Tensor | None) -> Tensor:
        """Returns rows, pooled to [B, sum of all features' D], or as they are, [ids, D]."""
        if self.weights_host.numel() == 0:  # which would crash FBGEMM
            num_bags = (len(offsets) - 1) // len(self.feature_table_map)
            return torch.zeros((0, self.max_D) if self.is_nobag else (num_bags, self.total_D))
        output: Tensor = super().forward(indices, offsets, weights)
        return output

    def update(
        self, gradients: Tensor, indices: Tensor, offsets: Tensor, weights: Tensor | None
    ) -> None:
        """Updates the rows, given the gradients of what ``look_up`` has returned for them."""
        self.iter.add_(1)
        if self.optimizer_args.gradient_clipping:
            limit = self.optimizer_args.max_gradient
            gradients = gradients.clamp(-limit, limit)
        num_features = len(self.feature_table_map)
        lengths = offsets.diff().view(num_features, (len(offsets) - 1) // num_features)
        lookup = Lookup(indices, lengths, weights, _POOLING[self.pooling_mode])
        parts = lookup.split([tables.num_features for tables in self._tables])
        if self.is_nobag:
            gradients_of_parts = gradients.split([len(part.ids) for part in parts])
        else:
            widths = [tables.num_features * tables.dim for tables in self._tables]
            gradients_of_parts = gradients.split(widths, dim=1)
        memory, lr, step = self.weights_host.detach(), self.get_learning_rate(), int(self.iter)
        for tables, part, of_part in zip(self._tables, parts, gradients_of_parts, strict=True):
            tables.update(memory, part, of_part, lr=lr, step=step)


class _TrainedLookup(torch.autograd.Function):
    """A lookup whose backward pass updates the tables."""

    @staticmethod
    def forward(
        ctx: Any,
        anchor: Tensor,
        kernel: TableKernel,
        indices: Tensor,
        offsets: Tensor,
        weights: Tensor | None,
    ) -> Tensor:
        # ``anchor`` requires a gradient, though it gets none: else there was no backward pass.
        assert weights is None or not weights.requires_grad
        output = kernel.look_up(indices, offsets, weights)
        ctx.kernel = kernel
        ctx.save_for_backward(indices, offsets, weights)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradients: Tensor) -> tuple[None, ...]:
        ctx.kernel.update(gradients, *ctx.saved_tensors)
        return (None,) * 5


@contextmanager
def table_kernel() -> Iterator[None]:
    """Has TorchRec make groups of tables of ``TableKernel`` for the length of the ``with`` block.

    TorchRec has no argument for it. Tables that are sharded in the block keep their kernel.
    """
    original = batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen
    batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen = TableKernel
    try:
        yield
    finally:
        batched_embedding_kernel.SplitTableBatchedEmbeddingBagsCodegen = original
