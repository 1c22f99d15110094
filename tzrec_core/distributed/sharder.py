"""Collections of tables sharded by any type that keeps the promises of ``shard``, on any device."""

from collections.abc import Collection
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import EmbeddingBagCollection, KeyedJaggedTensor, KeyedTensor, PoolingType
from torchrec.distributed.comm_ops import torchrec_use_sync_collectives
from torchrec.distributed.embeddingbag import (
    EmbeddingBagCollectionContext,
    EmbeddingBagCollectionSharder,
    ShardedEmbeddingBagCollection,
)
from torchrec.distributed.types import ParameterSharding, ShardingEnv, ShardingType

ROW_WISE, TABLE_ROW_WISE = ShardingType.ROW_WISE.value, ShardingType.TABLE_ROW_WISE.value
ROW_TYPES = (ROW_WISE, TABLE_ROW_WISE)
SHARDING_TYPES = (ShardingType.TABLE_WISE.value, *ROW_TYPES, ShardingType.COLUMN_WISE.value)


class Sharder(EmbeddingBagCollectionSharder):
    """Shards by ``SHARDING_TYPES``; TorchRec's own does not split rows on a CPU."""

    def sharding_types(self, compute_device_type: str) -> list[str]:
        return list(SHARDING_TYPES)

    def shard(
        self,
        module: EmbeddingBagCollection,
        params: dict[str, ParameterSharding],
        env: ShardingEnv,
        device: torch.device | None = None,
        module_fqn: str | None = None,
    ) -> ShardedEmbeddingBagCollection:
        split = [
            table
            for table in module.embedding_bag_configs()
            if params[table.name].sharding_type in ROW_TYPES
        ]
        if not split:
            return super().shard(module, params, env, device, module_fqn)
        averaged = [table for table in split if table.pooling == PoolingType.MEAN]
        try:
            for table in averaged:  # the caller's
                table.pooling = PoolingType.SUM
            return RowShards(
                module,
                params,
                env,
                means={name for table in averaged for name in table.feature_names},
                fused_params=self.fused_params,
                device=device,
                module_fqn=module_fqn,
            )
        finally:
            for table in averaged:
                table.pooling = PoolingType.MEAN


class RowShards(ShardedEmbeddingBagCollection):
    """A collection of which some tables are split by rows.

    Each rank sums up what it has of a bag, and the sums of all ranks meet on the rank of the bag.
    Two things are not left to TorchRec: with gloo it needs batches of equal size on all ranks, and
    where it divides the sums by the numbers of ids it divides those of tables that are not split
    as well.

    Args:
        means: Features whose sums are to be divided by the number of ids.
    """

    def __init__(self, *args: Any, means: Collection[str], **options: Any) -> None:
        super().__init__(*args, **options)
        self._means = frozenset(means)

    def input_dist(self, ctx: EmbeddingBagCollectionContext, features: KeyedJaggedTensor) -> Any:
        if self._means:
            ctx.keys = features.keys()
            ctx.divisor = features.lengths().view(len(ctx.keys), -1).clamp(min=1)
        return super().input_dist(ctx, features)

    def compute_and_output_dist(self, ctx: EmbeddingBagCollectionContext, input: Any) -> Any:
        # TorchRec's synchronous collective is an all-to-all, which gloo has for unequal parts.
        is_gloo = dist.get_backend() == "gloo"
        with torchrec_use_sync_collectives() if is_gloo else nullcontext():
            output = super().compute_and_output_dist(ctx, input)
        if self._means:
            num_ids = dict(zip(ctx.keys, ctx.divisor, strict=True))
            output.callbacks.append(
                partial(_divided, num_ids={name: num_ids[name] for name in self._means})
            )
        return output


def _divided(embeddings: KeyedTensor, *, num_ids: dict[str, Tensor]) -> KeyedTensor:
    """Returns the embeddings [B, sum of D], divided by the numbers of ids, [B] each."""
    values: Tensor = embeddings.values()
    keys, widths = embeddings.keys(), embeddings.length_per_key()
    one = values.new_ones(values.shape[0])
    divisors = torch.stack([num_ids.get(key, one).to(values.dtype) for key in keys], dim=1)
    divisors = divisors.repeat_interleave(torch.tensor(widths, device=values.device), dim=1)
    return KeyedTensor(keys=keys, length_per_key=widths, values=values / divisors)
