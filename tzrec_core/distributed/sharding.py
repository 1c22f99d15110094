"""The sharded model: which rank holds which embedding table, and the tables' first values."""

import hashlib
import warnings

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.types import ShardingEnv

from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.table_plan import plan_tables
from tzrec_core.machine import available_memory


def shard(
    model: nn.Module, ranks: Ranks, *, batch_size: int, seed: int
) -> DistributedModelParallel:
    """Distributes ``model``: whole embedding tables over the ranks, the rest replicated with DDP.

    The sparse optimizer must have been applied (``optim.sparse.apply_sparse_optimizer``): a table
    gets its update rule when it is sharded, within ``optim.sparse.kernel_for``. Tables are never
    split nor replicated: only so does every table keep the sparse optimizer, and only so can a
    checkpoint with any optimizer's state be read by any number of ranks. Batch sizes may differ
    between ranks and be 0. Ids outside a table raise an error in the forward pass.

    Tables are initialised here, each from a random stream of its own, so that the number of ranks
    and the place of a table do not change its values. Replicated parameters are those of rank 0.

    Args:
        model: Holds its tables in EmbeddingBagCollections, best on the meta device.
        ranks: From ``process_group``.
        batch_size: Of one rank, for the planner's estimates.
        seed: Of the tables' initial values.

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
    sharders = [
        EmbeddingBagCollectionSharder(fused_params={"bounds_check_mode": BoundsCheckMode.FATAL})
    ]
    host_memory, device_memory = _memory_per_rank(ranks)
    # Every rank plans for itself and comes to the same plan: in TorchRec's collective_plan an
    # error on rank 0 leaves the others waiting.
    plan = plan_tables(
        model,
        sharders,
        list(tables.values()),
        world_size=ranks.world_size,
        local_world_size=ranks.local_world_size,
        device_type=ranks.device.type,
        host_memory=host_memory,
        device_memory=device_memory,
        batch_size=batch_size,
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
    weights = dict(sharded.named_parameters())
    with torch.no_grad():
        for name, table in tables.items():
            if weights[name].numel() == 0:  # another rank's
                continue
            digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
            torch.manual_seed(int.from_bytes(digest[:8], "little"))
            assert table.init_fn is not None
            table.init_fn(weights[name])
