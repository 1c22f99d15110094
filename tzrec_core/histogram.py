"""Histograms of tensors whose bins are the same for all, so that those of parts add up."""

from typing import NamedTuple

import torch
from torch import Tensor

_CHUNK = 2**20
# The sign, the exponent and three more bits of a float32 number its bin. Those of a positive number
# are in order, those of a negative one in the reverse.
_SHIFT = 20
_NUM_POSITIVE = 255 << 3  # from here on it is infinite or NaN
_SIGN = 256 << 3


def _limits() -> Tensor:
    lower = (torch.arange(_NUM_POSITIVE, dtype=torch.int32) << _SHIFT).view(torch.float32)
    upper = torch.cat([lower[1:], torch.tensor([torch.finfo(torch.float32).max])])
    return torch.cat([-lower.flip(0), upper])


LIMITS = _limits()
"""[bins] Where the bins end, ascending. Eight of them are from a power of two to the next."""


class Histogram(NamedTuple):
    """How the finite elements of a tensor are distributed.

    Attributes:
        counts: [bins] float64, how many elements each bin has. An element that is a limit is in
            the bin on its side away from 0.
        moments: [2] float64, the sum and the sum of squares of the elements.
        extremes: [2] float64, the smallest and the negative of the largest; infinite of nothing.
    """

    counts: Tensor
    moments: Tensor
    extremes: Tensor


def histogram(values: Tensor) -> Histogram:
    """Returns the histogram of a tensor of any shape, on the CPU; NaN and infinities are left out.

    Those of the parts of a tensor make that of the whole: counts and moments add up, of extremes
    the smaller counts.
    """
    counts = torch.zeros(2 * _SIGN, dtype=torch.int64, device=values.device)
    moments = torch.zeros(2, dtype=torch.float64, device=values.device)
    extremes = torch.full((2,), torch.inf, dtype=torch.float64, device=values.device)
    # In chunks, as a table may take most of the memory.
    for chunk in values.detach().flatten().split(_CHUNK):
        part = chunk.float()
        numbers = (part.view(torch.int32) >> _SHIFT) & (2 * _SIGN - 1)
        counts += torch.bincount(numbers, minlength=2 * _SIGN)
        finite = part[part.isfinite()]
        if len(finite):
            sums = torch.stack([finite.sum(dtype=torch.float64), finite.double().square().sum()])
            moments += sums
            smallest, largest = finite.aminmax()
            extremes = torch.minimum(extremes, torch.stack([smallest, -largest]))
    positive, negative = counts[:_NUM_POSITIVE], counts[_SIGN : _SIGN + _NUM_POSITIVE]
    return Histogram(
        torch.cat([negative.flip(0), positive]).double().cpu(), moments.cpu(), extremes.cpu()
    )
