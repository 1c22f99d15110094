"""What trains a sharded model on one batch after the other.

The order of calls, each on every rank::

    with process_group() as ranks:
        model = ...                                    # embedding tables on the meta device
        rule = optim.tables.build.build_sparse_rule(config.sparse_optimizer, device_type=...)
        optim.sparse.apply_sparse_optimizer(model, rule)        # before sharding, every table
        with optim.sparse.kernel_for(rule):
            sharded = shard(model, ranks, batch_size=..., seed=...)
        optimizer = optim.build.build_optimizer(config.dense_optimizer, sharded, rule)
        restoring.restore(path, ranks, model=sharded, optimizer=optimizer)   # to continue
        stepper = optim.build.build_stepper(config, sharded, optimizer, ranks, ...)
        pipeline = train_pipeline(sharded, stepper, ranks)
        for epoch in ...:
            batches = agree(dataset.batches(epoch), ranks, ...)
            batches = stepper.expected(optim.accumulation.accumulated(batches, ...))
            while ...:
                stepper.schedule(step=..., epoch=...)
                pipeline.progress(batches)             # StopIteration: the epoch is over
"""

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tzrec_core.batch import Batch
from tzrec_core.distributed.ranks import Ranks


class TrainPipeline(Protocol):
    """Trains on one batch per call of ``progress``; the model returns (loss, output)."""

    def progress(self, batches: Iterator[Batch]) -> Any:
        """Trains on the next batch and returns the model's output for it.

        Raises:
            StopIteration: All of ``batches`` have been trained on. A call with another iterator
                starts anew.
        """

    def detach(self) -> nn.Module:
        """Gives the model back, to evaluate it in the middle of an epoch."""

    def attach(self) -> None:
        """Takes the model again after ``detach``."""


class PipelineOptimizer(Protocol):
    """What a train pipeline calls before and after the backward pass of each batch."""

    def zero_grad(self) -> None:
        """Prepares for a backward pass."""

    def step(self) -> None:
        """Uses its gradients."""


class PlainPipeline:
    """One batch after the other: on a CPU there is nothing to overlap."""

    def __init__(
        self, model: nn.Module, optimizer: PipelineOptimizer, device: torch.device
    ) -> None:
        self._model = model
        self._optimizer = optimizer
        self._device = device

    def progress(self, batches: Iterator[Batch]) -> Any:
        batch = next(batches).to(self._device)
        self._optimizer.zero_grad()
        loss, output = self._model(batch)
        loss.backward()
        self._optimizer.step()
        return output

    def detach(self) -> nn.Module:
        return self._model

    def attach(self) -> None:
        """The model was never taken."""


def train_pipeline(
    model: DistributedModelParallel, optimizer: PipelineOptimizer, ranks: Ranks
) -> TrainPipeline:
    """Returns what trains ``model``: TorchRec's overlapping pipeline on a GPU, a plain one else.

    TorchRec's pipeline holds up to two batches ahead of the one that it returns; a checkpoint's
    data position must therefore come from the output, not from the iterator. It traces the model:
    after the embeddings there must be one module without sharded parts.
    """
    if ranks.device.type == "cuda":
        pipeline: TrainPipeline = TrainPipelineSparseDist(model, optimizer, ranks.device)
        return pipeline
    return PlainPipeline(model, optimizer, ranks.device)
