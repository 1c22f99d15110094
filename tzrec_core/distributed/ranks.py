"""Ranks: the processes of a training, on one machine or several, and what they compute on."""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.rendezvous import rendezvous

from tzrec_core.distributed.launch import is_alone, num_restarts
from tzrec_core.distributed.stop_signal import Stopped
from tzrec_core.machine import available_cpus

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
