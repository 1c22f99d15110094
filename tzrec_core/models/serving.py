"""The model as it is served: plain torch on flat tensors, scriptable, no TorchRec and no config."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Lookup:
    """One pooled embedding: which sparse input reads which table, and how it pools."""

    key: int
    table: str
    pooling: str
    weighted: bool


class PooledLookup(nn.Module):
    """Pools the rows of one table for the ids of one sparse input."""

    key: Final[int]
    mean: Final[bool]
    weighted: Final[bool]

    def __init__(self, lookup: Lookup, table: nn.Module) -> None:
        """Takes a table as ``serving_table`` makes them."""
        super().__init__()
        self.key = lookup.key
        self.mean = lookup.pooling == "mean"
        self.weighted = lookup.weighted
        self.table = table

    def forward(self, values: list[Tensor], offsets: list[Tensor], weights: list[Tensor]) -> Tensor:
        of_ids: Tensor | None = None
        if self.weighted:
            of_ids = weights[self.key]
        pooled: Tensor = self.table(values[self.key], offsets[self.key], of_ids, self.mean)
        return pooled


class SingleTask(nn.Module):
    """A network of one task, under the name ``task``: TorchScript wants one type of all."""

    def __init__(self, network: nn.Module, task: str) -> None:
        super().__init__()
        self.network = network
        self.task = task

    def forward(
        self, dense: list[Tensor], deep: list[Tensor], wide: list[Tensor]
    ) -> dict[str, Tensor]:
        return {self.task: self.network(dense, deep, wide)}


@dataclass(frozen=True)
class TaskOutputs:
    """What of a task the model returns.

    Attributes:
        task: The name under which the network returns its logits.
        suffix: What the names of its outputs end in.
        outputs: Of ``logits``, ``probs``, ``probs1`` and ``y`` those that there are.
    """

    task: str
    suffix: str
    outputs: tuple[str, ...]


class Predictions(nn.Module):
    """Makes the outputs of one task."""

    def __init__(self, of_task: TaskOutputs) -> None:
        super().__init__()
        self.task = of_task.task
        self.suffix = of_task.suffix
        self.with_probs = "probs" in of_task.outputs
        self.with_probs1 = "probs1" in of_task.outputs
        self.with_y = "y" in of_task.outputs

    def forward(self, logits: Tensor) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = {"logits" + self.suffix: logits}
        if self.with_probs:
            single = logits.size(1) == 1
            probs = torch.sigmoid(logits.squeeze(1)) if single else torch.softmax(logits, dim=1)
            outputs["probs" + self.suffix] = probs
            if self.with_probs1:
                outputs["probs1" + self.suffix] = probs[:, 1]
        if self.with_y:
            outputs["y" + self.suffix] = logits.squeeze(1)
        return outputs


class ServingModel(nn.Module):
    """Scores encoded rows.

    ``forward(dense, values, lengths, weights=None)`` takes

    - ``dense`` [B, sum of dense widths] float32,
    - ``values`` [V] int64, the ids of all sparse inputs, input by input, row by row,
    - ``lengths`` [number of sparse inputs * B] int64 or int32, the number of ids of each row,
    - ``weights`` [V] float32, read only for inputs with weighted ids; none means all ones,

    and returns ``logits`` [B, num_class] with what the losses make of it: ``probs``
    ([B], or [B, num_class] for softmax) and ``y`` [B]. Of a model with several tasks these names
    end in the name of a tower, as ``probs_ctr``.
    """

    dense_widths: Final[list[int]]
    num_sparse: Final[int]

    def __init__(
        self,
        *,
        network: nn.Module,
        tables: dict[str, nn.Module],
        deep: Sequence[Lookup],
        wide: Sequence[Lookup],
        dense_widths: Sequence[int],
        num_sparse: int,
        tasks: Sequence[TaskOutputs],
    ) -> None:
        """Takes a network that returns logits by task, which may be a ``SingleTask``."""
        super().__init__()
        self.network = network
        self.deep = nn.ModuleList(PooledLookup(lookup, tables[lookup.table]) for lookup in deep)
        self.wide = nn.ModuleList(PooledLookup(lookup, tables[lookup.table]) for lookup in wide)
        self.dense_widths = list(dense_widths)
        self.num_sparse = num_sparse
        self.tasks = nn.ModuleList(Predictions(task) for task in tasks)

    def forward(
        self, dense: Tensor, values: Tensor, lengths: Tensor, weights: Tensor | None = None
    ) -> dict[str, Tensor]:
        batch_size = dense.size(0)
        # Sizes leave the tensors once; splitting by them is the only way to cut into views.
        per_input = lengths.long().view(self.num_sparse, batch_size)
        counts: list[int] = per_input.sum(dim=1).tolist()
        ids = list(torch.split(values, counts))
        starts = list((per_input.cumsum(dim=1) - per_input).unbind(0))
        if weights is None:
            weights = torch.ones(values.size(0), dtype=dense.dtype, device=values.device)
        id_weights = list(torch.split(weights, counts))

        deep: list[Tensor] = []
        for lookup in self.deep:
            deep.append(lookup(ids, starts, id_weights))
        wide: list[Tensor] = []
        for lookup in self.wide:
            wide.append(lookup(ids, starts, id_weights))
        dense_inputs: list[Tensor] = []
        if len(self.dense_widths) > 0:
            dense_inputs = list(torch.split(dense, self.dense_widths, dim=1))

        logits = self.network(dense_inputs, deep, wide)
        outputs: dict[str, Tensor] = {}
        for task in self.tasks:
            outputs.update(task(logits[task.task]))
        return outputs
