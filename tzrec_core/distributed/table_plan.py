"""Which rank holds which embedding table."""

from collections.abc import Sequence

from torch import nn
from torchrec import EmbeddingBagConfig
from torchrec.distributed.embedding_types import EmbeddingComputeKernel
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    KernelConfig,
    ParameterConstraints,
    PlannerError,
    TopologyFactory,
    TrainerConfig,
)
from torchrec.distributed.types import ModuleSharder, ShardingPlan, ShardingType

_RESERVED = 0.15
"""Share of a rank's memory that tables must leave to everything else."""


def plan_tables(
    model: nn.Module,
    sharders: Sequence[ModuleSharder[nn.Module]],
    tables: Sequence[EmbeddingBagConfig],
    *,
    world_size: int,
    local_world_size: int,
    device_type: str,
    host_memory: int,
    device_memory: int,
    batch_size: int,
) -> ShardingPlan:
    """Spreads whole tables over the ranks so that memory suffices and the work is even.

    Equal arguments give equal plans.

    Args:
        model: Holds the tables.
        sharders: What shards the modules of tables.
        tables: All tables of ``model``.
        world_size: Number of ranks.
        local_world_size: Number of ranks on one machine.
        device_type: "cpu" or "cuda".
        host_memory: Bytes for each rank.
        device_memory: Bytes of each rank's GPU.
        batch_size: Of one rank.

    Raises:
        ValueError: The tables do not fit into memory.
    """
    if not tables:
        return ShardingPlan({})
    planner = EmbeddingShardingPlanner(
        topology=TopologyFactory.create_topology(
            TrainerConfig(
                world_size=world_size,
                local_world_size=local_world_size,
                ddr_cap_bytes=host_memory,
                hbm_cap_bytes=device_memory,
            ),
            kernel_config=KernelConfig(compute_device=device_type),
        ),
        batch_size=batch_size,
        storage_reservation=FixedPercentageStorageReservation(_RESERVED),
        # Left alone, TorchRec replicates small tables, and those lose the sparse optimizer.
        constraints={
            table.name: ParameterConstraints(
                sharding_types=[ShardingType.TABLE_WISE.value],
                compute_kernels=[EmbeddingComputeKernel.FUSED.value],
            )
            for table in tables
        },
        debug=False,
    )
    try:
        return planner.plan(model, sharders)
    except PlannerError as error:
        memory = device_memory if device_type == "cuda" else host_memory
        raise ValueError(_does_not_fit(tables, memory, world_size)) from error


def _does_not_fit(tables: Sequence[EmbeddingBagConfig], memory: int, world_size: int) -> str:
    sizes = {table.name: 4 * table.num_embeddings * table.embedding_dim for table in tables}
    largest = sorted(tables, key=lambda table: -sizes[table.name])[:5]
    listed = ", ".join(
        f"{table.name} {table.num_embeddings} x {table.embedding_dim} = "
        f"{sizes[table.name] / 2**30:.3g} GiB"
        for table in largest
    )
    return (
        f"the embedding tables do not fit into memory: {len(tables)} tables of "
        f"{sum(sizes.values()) / 2**30:.3g} GiB, and the sparse optimizer's state on top, on "
        f"{world_size} ranks with {memory * (1 - _RESERVED) / 2**30:.3g} GiB for tables each, a "
        f"table whole on one rank; the largest: {listed}. "
        "Use fewer rows, a smaller embedding_dim, more ranks, or more memory."
    )
