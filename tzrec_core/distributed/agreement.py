"""What the ranks of a training agree on, step by step: batches, random numbers, buffers."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator

import torch
import torch.distributed as dist
from torch import Tensor, nn

from tzrec_core.batch import Batch
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.distributed.stop_signal import STOPPING, Stopped, StopRequest


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
        Stopped: A rank is to stop; on every rank, in place of the same batch and with the same
            signal.
    """
    stop = stop or StopRequest()
    while True:
        mine = stop.next_of(batches)
        batch = empty if mine is None else mine
        told = [stop.signum == signum for signum in STOPPING]
        counts = torch.tensor([mine is not None, *told], dtype=torch.float64)
        weights = counts.new_zeros(0) if weigh is None else weigh(batch)
        sums = torch.cat([counts, weights.flatten()])
        dist.all_reduce(sums, group=ranks.control)
        num_ranks_with_data, *nums_told = sums[: len(counts)].tolist()
        for signum, num_told in zip(STOPPING, nums_told, strict=True):
            if num_told:
                raise Stopped(signum)
        if num_ranks_with_data < (ranks.world_size if drop_remainder else 1):
            return
        if weigh is not None:
            of_all = sums[len(counts) :].view(weights.shape)
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
