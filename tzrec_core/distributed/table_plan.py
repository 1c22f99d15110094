"""Which rank holds which embedding table, or which part of it."""

import dataclasses
import logging
import math
from collections.abc import Mapping, Sequence

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

from tzrec_core.distributed.sharder import ROW_TYPES, ROW_WISE, TABLE_ROW_WISE

log = logging.getLogger(__name__)

_RESERVED = 0.15
"""Share of a rank's memory that tables must leave to everything else."""

_COLUMNS = 4
"""What the columns of a part must be a multiple of, for FBGEMM's kernels."""


@dataclasses.dataclass(frozen=True)
class TableConstraint:
    """What the planner may choose from for a table.

    Attributes:
        sharding_types: TorchRec's names, any of ``sharder.SHARDING_TYPES``.
        compute_kernels: TorchRec's names of what computes it, and where its memory is.
    """

    sharding_types: tuple[str, ...]
    compute_kernels: tuple[str, ...]


WHOLE = TableConstraint((ShardingType.TABLE_WISE.value,), (EmbeddingComputeKernel.FUSED.value,))
"""On one rank. Left alone, TorchRec replicates small tables: they lose the sparse optimizer."""


def plan_tables(
    model: nn.Module,
    sharders: Sequence[ModuleSharder[nn.Module]],
    tables: Sequence[EmbeddingBagConfig],
    constraints: Mapping[str, TableConstraint],
    *,
    world_size: int,
    local_world_size: int,
    device_type: str,
    host_memory: int,
    device_memory: int,
    batch_size: int,
) -> ShardingPlan:
    """Spreads tables over the ranks so that memory suffices and the work is even.

    One rank must plan for all: where a table has a choice, TorchRec depends on the process's order
    of sets.

    Args:
        model: Holds the tables.
        sharders: What shards the modules of tables.
        tables: All tables of ``model``.
        constraints: By the name of the table; all others are whole on one rank.
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
    num_ranks = {ROW_WISE: world_size, TABLE_ROW_WISE: local_world_size}
    wanted = {table.name: constraints.get(table.name, WHOLE) for table in tables}
    constraints = {
        table.name: _possible(wanted[table.name], table.num_embeddings, num_ranks)
        for table in tables
    }
    too_small = [name for name, constraint in constraints.items() if constraint != wanted[name]]
    if too_small:
        log.info("too few rows to be split over the ranks: %s", ", ".join(too_small))
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
        constraints={
            table.name: ParameterConstraints(
                sharding_types=list(constraints[table.name].sharding_types),
                compute_kernels=list(constraints[table.name].compute_kernels),
                min_partition=columns_of_part(table.embedding_dim, world_size),
            )
            for table in tables
        },
        debug=False,
    )
    try:
        return planner.plan(model, sharders)
    except PlannerError as error:
        memory = _gib(host_memory * (1 - _RESERVED))
        if device_type == "cuda":
            memory = f"{_gib(device_memory * (1 - _RESERVED))} of GPU and {memory} of host memory"
        raise ValueError(_does_not_fit(tables, constraints, memory, world_size)) from error


def _possible(
    constraint: TableConstraint, num_rows: int, num_ranks: Mapping[str, int]
) -> TableConstraint:
    """Returns the constraint without types that leave a rank without rows; table_wise if none stay.

    FBGEMM's CPU kernel takes a table without rows for the one that lies behind it in memory, and
    updates that one wrongly.
    """
    types = tuple(
        kind for kind in constraint.sharding_types if _fills(num_rows, num_ranks.get(kind, 1))
    )
    return dataclasses.replace(constraint, sharding_types=types or WHOLE.sharding_types)


def _fills(num_rows: int, num_ranks: int) -> bool:
    """Returns whether TorchRec's equal parts, of which the last is smaller, reach all ranks."""
    return math.ceil(num_rows / num_ranks) * (num_ranks - 1) < num_rows


def columns_of_part(dim: int, num_ranks: int) -> int:
    """Returns how many columns a part has when columns are split: as many as all ranks get some of.

    Parts are equal, and multiples of 4; if that gives fewer parts than ranks, they have 4.
    """
    widths = range(_COLUMNS, dim + 1, _COLUMNS)
    return max((w for w in widths if dim % w == 0 and dim // w >= num_ranks), default=_COLUMNS)


def _does_not_fit(
    tables: Sequence[EmbeddingBagConfig],
    constraints: Mapping[str, TableConstraint],
    memory: str,
    world_size: int,
) -> str:
    sizes = {table.name: 4 * table.num_embeddings * table.embedding_dim for table in tables}
    total = sum(sizes.values())
    types = {name: constraints[name].sharding_types for name in sizes}
    largest = sorted(tables, key=lambda table: -sizes[table.name])[:5]
    listed = ", ".join(
        f"{table.name} {table.num_embeddings} x {table.embedding_dim} = "
        f"{_gib(sizes[table.name])} ({' or '.join(types[table.name])})"
        for table in largest
    )
    # Those that are at least a rank's share of all.
    unsplit = [
        table.name
        for table in largest
        if sizes[table.name] * world_size >= total and not set(ROW_TYPES) & set(types[table.name])
    ]
    advice = "Use fewer rows, a smaller embedding_dim, more ranks, or more memory"
    if unsplit:
        advice += (
            f"; or let ranks share the rows of {', '.join(unsplit)}, with "
            'sharding_types: "row_wise" in embedding_constraints of the features or in '
            "train_config.global_embedding_constraints"
        )
    return (
        f"the embedding tables do not fit into memory: {len(tables)} tables of {_gib(total)}, and "
        f"the sparse optimizer's state on top, on {world_size} ranks with {memory} for tables "
        f"each; the largest: {listed}. {advice}."
    )


def _gib(num_bytes: float) -> str:
    return f"{num_bytes / 2**30:.3g} GiB"
