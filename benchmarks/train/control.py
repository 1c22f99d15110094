"""The same training written by hand: TorchRec's modules and plain torch, and nothing else.

What tables, network, loss and optimizers compute is what ``tzrec_core`` makes of the config; a test
holds it to that. ``run`` trains on batches in memory.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.optim import _apply_optimizer_in_backward
from torch.nn.functional import binary_cross_entropy_with_logits
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor, KeyedTensor
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.planner import EmbeddingShardingPlanner, ParameterConstraints, Topology
from torchrec.distributed.types import ShardingEnv
from torchrec.optim.keyed import CombinedOptimizer, KeyedOptimizerWrapper
from torchrec.optim.optimizers import in_backward_optimizer_filter

DIM, WIDE_DIM = 16, 4
SPARSE_LR, DENSE_LR = 0.05, 0.002


class ControlBatch(NamedTuple):
    """Tensors of a batch: [B, 13], ids, [B], [B]."""

    dense: Tensor
    sparse: KeyedJaggedTensor
    label: Tensor
    weight: Tensor


class DeepFM(nn.Module):
    """DeepFM, and its loss."""

    def __init__(self, tables: Sequence[int], num_dense: int, units: Sequence[int]) -> None:
        super().__init__()
        self.keys = [f"cat_{i}" for i in range(len(tables))]
        self.deep_tables = self._collection("deep", tables, DIM)
        self.wide_tables = self._collection("wide", tables, WIDE_DIM)
        widths = [num_dense + len(tables) * DIM, *units]
        self.deep = nn.Sequential()
        for inputs, outputs in zip(widths, units, strict=False):
            self.deep.extend([nn.Linear(inputs, outputs), nn.ReLU()])
        self.final = nn.Sequential(
            nn.Linear(WIDE_DIM + DIM + units[-1], 64), nn.ReLU(), nn.Linear(64, 1)
        )
        self.dtype: torch.dtype | None = None

    def _collection(self, kind: str, tables: Sequence[int], dim: int) -> EmbeddingBagCollection:
        configs = [
            EmbeddingBagConfig(
                name=f"{kind}_{key}", num_embeddings=num_rows, embedding_dim=dim,
                feature_names=[key],
            )
            for key, num_rows in zip(self.keys, tables, strict=True)
        ]  # fmt: skip
        return EmbeddingBagCollection(configs, device=torch.device("meta"))

    def forward(self, batch: ControlBatch) -> Tensor:
        deep = self._by_feature(self.deep_tables(batch.sparse))
        wide = self._by_feature(self.wide_tables(batch.sparse))
        kind, dtype = batch.dense.device.type, self.dtype
        with torch.autocast(kind, dtype=dtype, enabled=dtype is not None):
            vectors = torch.stack(deep, dim=1)
            total = vectors.sum(dim=1)
            pairs = 0.5 * (total * total - (vectors * vectors).sum(dim=1))
            hidden = self.deep(torch.cat([batch.dense, *deep], dim=1))
            logits = self.final(torch.cat([torch.stack(wide).sum(dim=0), pairs, hidden], dim=1))
        losses = binary_cross_entropy_with_logits(
            logits.float().squeeze(1), batch.label, reduction="none"
        )
        return (losses * batch.weight).sum() / batch.weight.sum()

    def _by_feature(self, pooled: KeyedTensor) -> list[Tensor]:
        parts = torch.split(pooled.values(), pooled.length_per_key(), dim=1)
        by_key = dict(zip(pooled.keys(), parts, strict=True))
        return [by_key[key] for key in self.keys]


class Control:
    """The model in its optimizers' hands."""

    def __init__(
        self, tables: Sequence[int], num_dense: int, units: Sequence[int], batch_size: int
    ) -> None:
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = DeepFM(tables, num_dense, units)
        names = []
        for collection in (self.model.deep_tables, self.model.wide_tables):
            names += [table.name for table in collection.embedding_bag_configs()]
            _apply_optimizer_in_backward(
                torch.optim.Adagrad, collection.parameters(), {"lr": SPARSE_LR, "eps": 1e-8}
            )
        planner = EmbeddingShardingPlanner(
            topology=Topology(world_size=1, compute_device=self.device.type),
            batch_size=batch_size,
            constraints={name: ParameterConstraints(["table_wise"], ["fused"]) for name in names},
        )
        sharders = [EmbeddingBagCollectionSharder()]
        group = dist.GroupMember.WORLD
        self.sharded = DistributedModelParallel(
            self.model,
            env=ShardingEnv(1, 0, group),
            device=self.device,
            plan=planner.plan(self.model, sharders),
            sharders=sharders,
        )
        dense = KeyedOptimizerWrapper(
            dict(in_backward_optimizer_filter(self.sharded.named_parameters())),
            lambda parameters: torch.optim.Adam(parameters, lr=DENSE_LR),
        )
        self.optimizer = CombinedOptimizer([self.sharded.fused_optimizer, dense])

    def step(self, batch: ControlBatch) -> Tensor:
        """Trains on a batch; returns the loss before."""
        self.optimizer.zero_grad()
        loss: Tensor = self.sharded(batch)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


@contextmanager
def alone() -> Iterator[None]:
    """Is a process group of one, without a port, for the length of the ``with`` block."""
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        yield
    finally:
        dist.destroy_process_group()
