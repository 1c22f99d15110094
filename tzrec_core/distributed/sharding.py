"""The sharded model: which rank holds what of which embedding table, and the first values."""

import hashlib
import warnings
from collections.abc import Mapping
from functools import partial

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv

from tzrec_core.distributed.ranks import Ranks, on_rank_0
from tzrec_core.distributed.sharder import Sharder
from tzrec_core.distributed.table_plan import WHOLE, TableConstraint, plan_tables
from tzrec_core.machine import available_memory

_BLOCK = 2**20
"""Weights to initialise at a time, from a random stream of their own."""


def shard(
    model: nn.Module,
    ranks: Ranks,
    *,
    batch_size: int,
    seed: int,
    constraints: Mapping[str, TableConstraint] | None = None,
) -> DistributedModelParallel:
    """Distributes ``model``: embedding tables over the ranks, the rest replicated with DDP.

    The sparse optimizer must have been applied (``optim.sparse.apply_sparse_optimizer``): a table
    gets its update rule when it is sharded, within ``optim.sparse.kernel_for``. Tables are never
    replicated: only so does every table keep the sparse optimizer. Batch sizes may differ between
    ranks and be 0. Ids outside a table raise an error in the forward pass.

    Tables are initialised here, so that neither the number of ranks nor the place of a table or
    of its parts changes its values. Replicated parameters are those of rank 0.

    Args:
        model: Holds its tables in EmbeddingBagCollections, best on the meta device.
        ranks: From ``process_group``.
        batch_size: Of one rank, for the planner's estimates.
        seed: Of the tables' initial values.
        constraints: By the name of a feature, how its tables may be sharded; features that share a
            table have the same. Tables of all others are whole on one rank.

    Raises:
        ValueError: The tables do not fit into memory; on every rank.
    """
    tables = {
        f"{path}.embedding_bags.{table.name}.weight".lstrip("."): table
        for path, module in model.named_modules()
        if isinstance(module, EmbeddingBagCollection)
        for table in module.embedding_bag_configs()
    }
    weights = dict(model.named_parameters())
    # Without a rule FBGEMM would train the table with an SGD of its own choice.
    without = [name for name in tables if not hasattr(weights[name], "_in_backward_optimizers")]
    assert not without, f"tables without sparse optimizer: {without}"
    sharders = [Sharder(fused_params={"bounds_check_mode": BoundsCheckMode.FATAL})]
    host_memory, device_memory = _memory_per_rank(ranks)
    constraints = constraints or {}
    plan = on_rank_0(
        ranks,
        partial(
            plan_tables,
            model,
            sharders,
            list(tables.values()),
            {t.name: constraints.get(t.feature_names[0], WHOLE) for t in tables.values()},
            world_size=ranks.world_size,
            local_world_size=ranks.local_world_size,
            device_type=ranks.device.type,
            host_memory=host_memory,
            device_memory=device_memory,
            batch_size=batch_size,
        ),
    )
    group = dist.GroupMember.WORLD
    assert group is not None
    # Ranks draw different numbers of random values here; what follows should not depend on that.
    devices = [ranks.device] if ranks.device.type == "cuda" else []
    with torch.random.fork_rng(devices), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`broadcast_buffers` is deprecated", FutureWarning)
        sharded = DistributedModelParallel(
            model,
            # The state of tables comes as DTensor: unlike ShardedTensor it can be copied aside,
            # which an asynchronous save of torch.distributed.checkpoint does.
            env=ShardingEnv(ranks.world_size, ranks.rank, group, output_dtensor=True),
            device=ranks.device,
            plan=plan,
            sharders=sharders,
        )
        _initialise_tables(sharded, tables, seed)
    return sharded


def _memory_per_rank(ranks: Ranks) -> tuple[int, int]:
    """Returns the bytes of host and of device memory that every rank has at least."""
    device_memory = 0
    if ranks.device.type == "cuda":
        device_memory, _ = torch.cuda.mem_get_info(ranks.device)
    memory = torch.tensor([available_memory() // ranks.local_world_size, device_memory])
    # Free memory changes by the moment: ranks that took their own would make different plans.
    dist.all_reduce(memory, dist.ReduceOp.MIN, group=ranks.control)
    return int(memory[0]), int(memory[1])


def _initialise_tables(
    sharded: DistributedModelParallel, tables: dict[str, EmbeddingBagConfig], seed: int
) -> None:
    """Fills the tables block by block of whole rows: a part takes from them what it has of each."""
    weights = sharded.state_dict()
    for name, table in tables.items():
        local = weights[name].to_local()
        # A rank without any part has the offsets of one.
        for offsets, part in zip(local.local_offsets(), local.local_shards(), strict=False):
            _initialise_part(part, offsets, name, table, seed)


def _initialise_part(
    part: Tensor, offsets: tuple[int, int], name: str, table: EmbeddingBagConfig, seed: int
) -> None:
    first_row, first_column = offsets
    last_row, last_column = first_row + part.shape[0], first_column + part.shape[1]
    num_rows = max(1, _BLOCK // table.embedding_dim)
    for start in range(first_row // num_rows * num_rows, last_row, num_rows):
        stop = min(start + num_rows, table.num_embeddings)
        digest = hashlib.sha256(f"{seed}/{name}/{start}".encode()).digest()
        torch.manual_seed(int.from_bytes(digest[:8], "little"))
        block = part.new_empty(stop - start, table.embedding_dim)
        assert table.init_fn is not None
        table.init_fn(block)
        low, high = max(start, first_row), min(stop, last_row)
        part[low - first_row : high - first_row] = block[
            low - start : high - start, first_column:last_column
        ]
