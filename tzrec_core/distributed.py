"""Ranks: the process group, the sharded model, the train pipeline, and what ranks must agree on.

The order of calls, each on every rank::

    with process_group() as ranks:
        model = ...                                    # embedding tables on the meta device
        rule = optim.tables.build.build_sparse_rule(config.sparse_optimizer, device_type=...)
        optim.sparse.apply_sparse_optimizer(model, rule)        # before sharding, every table
        with optim.sparse.kernel_for(rule):
            sharded = shard(model, ranks, batch_size=..., seed=...)
        optimizer = optim.build.build_optimizer(config.dense_optimizer, sharded, rule)
        checkpoint.restore(path, ranks, model=sharded, optimizer=optimizer)   # to continue
        stepper = optim.build.build_stepper(config, sharded, optimizer, ranks, ...)
        pipeline = train_pipeline(sharded, stepper, ranks)
        for epoch in ...:
            batches = agree(dataset.batches(epoch), ranks, ...)
            batches = stepper.expected(optim.accumulation.accumulated(batches, ...))
            while ...:
                stepper.schedule(step=..., epoch=...)
                pipeline.progress(batches)             # StopIteration: the epoch is over
"""

import dataclasses
import hashlib
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist
from fbgemm_gpu.split_table_batched_embeddings_ops_common import BoundsCheckMode
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig
from torchrec.distributed.embeddingbag import EmbeddingBagCollectionSharder
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist
from torchrec.distributed.types import ShardingEnv

from tzrec_core.batch import Batch
from tzrec_core.launch import is_alone, num_restarts
from tzrec_core.machine import available_cpus, available_memory
from tzrec_core.stop_signal import Stopped, StopRequest
from tzrec_core.table_plan import plan_tables

Result = TypeVar("Result")


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is, and what it computes on.

    Attributes:
        rank: 0 .. world_size - 1 over all machines.
        world_size: Number of processes.
        local_rank: 0 .. local_world_size - 1 on this machine.
        local_world_size: Number of processes on this machine.
        device: Where the model lives.
        control: A gloo group of all ranks for small agreements on the host. The model never uses
            it, so its calls cannot mix with those of training.
    """

    rank: int
    world_size: int
    local_rank: int
    local_world_size: int
    device: torch.device
    control: dist.ProcessGroup


@contextmanager
def process_group(*, timeout: timedelta = timedelta(minutes=30)) -> Iterator[Ranks]:
    """Joins the process group for the length of the ``with`` block.

    Under torchrun the group spans its processes; without it this process is alone and opens no
    port. NCCL on GPUs, else gloo. On CPUs the ranks of a machine share its cores, unless the user
    has set OMP_NUM_THREADS (torchrun sets it to 1 for several ranks).

    A rank that leaves with an exception neither waits for the others nor tears the group down,
    both of which could hang: its process should end with an error, which breaks the connections
    of the other ranks and makes torchrun stop them. ``Stopped``, which all ranks raise together,
    is an orderly end.

    Args:
        timeout: How long a collective waits for the slowest rank before it fails.
    """
    device = torch.device("cpu")
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    local_world_size = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    if torch.cuda.is_available():
        device = torch.device("cuda", local_rank)
        torch.cuda.set_device(device)
    elif "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, available_cpus() // local_world_size))
    backend = "nccl" if device.type == "cuda" else "gloo"
    rank, world_size = 0, 1
    store: dist.Store = dist.HashStore()  # type: ignore[attr-defined,name-defined]
    if "RANK" in os.environ:
        store, rank, world_size = next(rendezvous("env://", timeout=timeout))
        # torchrun keeps the store when it starts its processes again: without the prefix they find
        # the addresses of those before. On several machines only torchrun itself can help:
        # TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1 makes it start with an empty one.
        if is_alone():
            store = dist.PrefixStore(  # type: ignore[attr-defined]
                f"attempt {num_restarts()}", store
            )
    dist.init_process_group(backend, store=store, rank=rank, world_size=world_size, timeout=timeout)
    control = dist.new_group(backend="gloo", timeout=timeout)
    ranks = Ranks(
        rank=dist.get_rank(),
        world_size=dist.get_world_size(),
        local_rank=local_rank,
        local_world_size=local_world_size,
        device=device,
        control=control,
    )
    try:
        yield ranks
    except BaseException as error:
        if isinstance(error, Stopped):
            _leave(ranks)
        elif ranks.world_size == 1:
            dist.destroy_process_group()
        raise
    _leave(ranks)


def _leave(ranks: Ranks) -> None:
    # Without the barrier a rank may tear down connections that another still uses, and abort it.
    dist.barrier(ranks.control)
    dist.destroy_process_group()


def on_rank_0(ranks: Ranks, action: Callable[[], Result]) -> Result:
    """Calls ``action`` on rank 0 while the others wait; returns its result on every rank.

    What ``action`` raises is raised on every rank, so that none waits for a rank that has failed.
    The result must be picklable.
    """
    outcome: list[Any] = [None, None]
    if ranks.rank == 0:
        try:
            outcome[0] = action()
        except Exception as error:
            outcome[1] = error
    dist.broadcast_object_list(outcome, src=0, group=ranks.control)
    if outcome[1] is not None:
        raise outcome[1]
    result: Result = outcome[0]
    return result


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


def agree(
    batches: Iterator[Batch],
    ranks: Ranks,
    *,
    weigh: Callable[[Batch], Tensor] | None,
    drop_remainder: bool,
    empty: Batch,
    stop: StopRequest | None = None,
) -> Iterator[Batch]:
    """Yields this rank's batches, as many as every other rank, with ``normalizer`` set.

    Before each batch all ranks add up the weights of their losses: the batch's normalizer is the
    sum over all ranks divided by the number of ranks. A rank whose loss is its own weighted sum
    divided by the normalizer then trains as one rank on all the rows, since gradients are averaged
    over the ranks. A loss of weight 0 everywhere has normalizer 1 and share 0, and is 0.

    Call and iterate it on every rank, from one thread at a time. It waits for the slowest rank.

    Args:
        batches: This rank's batches of one epoch; ranks may have different numbers of them.
        ranks: From ``process_group``.
        weigh: Gives for a batch the weights of its losses, float64 of any one shape, which
            ``normalizer`` and ``share`` then have too; None if there are no losses.
        drop_remainder: End when any rank has no more, so that no batch is smaller than the others;
            else when all have none: a rank that runs out goes on with ``empty``.
        empty: A batch without rows.
        stop: Whether this process is to stop; None if nothing but the end of the data stops it.

    Raises:
        Stopped: A rank is to stop; on every rank, in place of the same batch.
    """
    stop = stop or StopRequest()
    while True:
        mine = stop.next_of(batches)
        batch = empty if mine is None else mine
        counts = torch.tensor([mine is not None, stop.signum is not None], dtype=torch.float64)
        weights = counts.new_zeros(0) if weigh is None else weigh(batch)
        sums = torch.cat([counts, weights.flatten()])
        dist.all_reduce(sums, group=ranks.control)
        num_ranks_with_data, num_ranks_to_stop = sums[:2].tolist()
        if num_ranks_to_stop:
            raise Stopped(stop.signum or signal.SIGTERM)
        if num_ranks_with_data < (ranks.world_size if drop_remainder else 1):
            return
        if weigh is not None:
            of_all = sums[2:].view(weights.shape)
            normalizer = (of_all / ranks.world_size).where(of_all > 0, 1.0)
            batch = dataclasses.replace(
                batch, normalizer=normalizer.float(), share=(of_all > 0).float()
            )
        yield batch


def seed_step(ranks: Ranks, *, seed: int, step: int) -> None:
    """Makes what this rank draws in a step a function of ``seed``, ``step`` and its rank.

    Only so does a training that goes on from a checkpoint drop out the units that it would have
    dropped out without the interruption.
    """
    digest = hashlib.sha256(f"{seed}/step/{step}/{ranks.rank}".encode()).digest()
    number = int.from_bytes(digest[:8], "little")
    # torch.manual_seed, for all kinds of devices, takes a hundred times as long.
    torch.default_generator.manual_seed(number)
    if ranks.device.type == "cuda":
        torch.cuda.manual_seed(number)


def share_buffers(model: nn.Module, ranks: Ranks) -> None:
    """Gives every rank the buffers of rank 0: what batch norm has gathered of its own rows."""
    parameters = {name for name, _ in model.named_parameters()}
    for name, buffer in model.state_dict().items():
        if name not in parameters:
            dist.broadcast(buffer, src=0)


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
