"""Brings the rows that ranks hold together."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor


def gather_rows(parts: Sequence[Tensor], *, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Returns the rows of all ranks, rank 0's first, on every rank; all ranks must call.

    Args:
        parts: This rank's rows, [n] each; ranks may hold different numbers of them, or none.
        dtype: Of all parts.
        device: Where they are.
    """
    rows = torch.cat(list(parts)) if parts else torch.empty(0, dtype=dtype, device=device)
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return rows
    own = torch.tensor([len(rows)], device=device)
    counts = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, own)
    sizes = [int(count) for count in counts]
    # gloo and NCCL gather equal sizes only.
    padded = rows.new_zeros(max(sizes))
    padded[: len(rows)] = rows
    gathered = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(gathered, padded)
    return torch.cat([part[:size] for part, size in zip(gathered, sizes, strict=True)])
