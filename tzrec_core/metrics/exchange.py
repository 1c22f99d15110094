"""Brings the rows that ranks hold together, and their results and errors.

Every function must be called by all ranks of the default process group, in the same order; without
a process group this process is alone.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.order import argsort

Result = TypeVar("Result")


def own_rank() -> int:
    """Returns this process's rank."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """Returns the number of ranks."""
    return dist.get_world_size() if dist.is_initialized() else 1


def together(action: Callable[[], Result]) -> list[Result]:
    """Calls ``action`` on every rank; returns the results of all ranks, rank 0's first.

    What ``action`` raises on one rank is raised on every rank: of several ranks' errors the lowest
    rank's. It must not communicate. Results must be picklable, and small.
    """
    if num_ranks() == 1:
        return [action()]
    result, own_error = None, None
    try:
        result = action()
    except Exception as error:
        own_error = error
    outcomes: list[Any] = [None] * num_ranks()
    dist.all_gather_object(outcomes, (result, own_error))
    for _, failure in outcomes:
        if failure is not None:
            raise failure from own_error
    return [result for result, _ in outcomes]


def to_rank_0(columns: Sequence[Tensor]) -> list[Tensor]:
    """Returns the rows of all ranks on rank 0, its own first, and no rows on the others.

    Args:
        columns: [n, ...] each, on every rank of the same types; n differs between ranks, or is 0.
    """
    num_rows = len(columns[0])
    return _send(columns, [num_rows, *[0] * (num_ranks() - 1)])


def by_key(columns: Sequence[Tensor], keys: Tensor) -> tuple[list[Tensor], Tensor]:
    """Returns rows of all ranks such that those of equal keys are on one rank.

    Rows without a key (``NULL_ID``) stay where they are.

    Args:
        columns: [n, ...] each, on every rank of the same types; n differs between ranks, or is 0.
        keys: [n] int64.

    Returns:
        The columns and the keys, [m] each.
    """
    if num_ranks() == 1:
        return list(columns), keys
    rank = rank_of(keys, num_ranks()).where(keys != NULL_ID, own_rank())
    order = argsort(rank)
    counts = torch.bincount(rank, minlength=num_ranks()).tolist()
    *columns, keys = _send([column[order] for column in (*columns, keys)], counts)
    return columns, keys


def rank_of(keys: Tensor, world_size: int) -> Tensor:
    """Returns the ranks, [n] int64, on which the rows of [n] int64 keys meet.

    A mixed hash of the key chooses it, so that keys which are a multiple of something, or negative,
    or hashes themselves, spread evenly.
    """
    return ((mixed(keys) >> 32) & 0x7FFFFFFF) % world_size


def mixed(keys: Tensor) -> Tensor:
    """Returns well-mixed 64-bit hashes of [n] int64, a bijection: the finaliser of SplitMix64.

    G. L. Steele, D. Lea, C. H. Flood: Fast Splittable Pseudorandom Number Generators, 2014.
    """
    # int64 wraps around as uint64 does; its shift copies the sign, hence the masks.
    mixed = keys + (0x9E3779B97F4A7C15 - 2**64)
    mixed = (mixed ^ ((mixed >> 30) & (2**34 - 1))) * (0xBF58476D1CE4E5B9 - 2**64)
    mixed = (mixed ^ ((mixed >> 27) & (2**37 - 1))) * (0x94D049BB133111EB - 2**64)
    return mixed ^ ((mixed >> 31) & (2**33 - 1))


def _send(columns: Sequence[Tensor], counts: list[int]) -> list[Tensor]:
    """Sends the first ``counts[0]`` rows to rank 0, and so on; returns what came, in rank order."""
    if num_ranks() == 1:
        return list(columns)
    device = _wire()
    sent = torch.tensor(counts, device=device)
    received = torch.empty_like(sent)
    dist.all_to_all_single(received, sent)
    sizes = received.tolist()
    arrived = []
    for column in columns:
        out = torch.empty(sum(sizes), *column.shape[1:], dtype=column.dtype, device=device)
        dist.all_to_all_single(out, column.to(device).contiguous(), sizes, counts)
        arrived.append(out.to(column.device))
    return arrived


def _wire() -> torch.device:
    """Returns where tensors must be to be sent."""
    if dist.get_backend() == "nccl":
        return torch.device("cuda", torch.cuda.current_device())
    return torch.device("cpu")
