"""Embedding tables in fewer bits: float16, or 8-bit codes with a scale and an offset a row."""

from typing import NamedTuple

import torch
from torch import Tensor

_LEVELS = 255


class QuantizedRows(NamedTuple):
    """Rows as 8-bit codes: row ``i`` is ``codes[i] * scale[i] + offset[i]``."""

    codes: Tensor
    """[N, D] uint8."""
    scale: Tensor
    """[N, 1] float32."""
    offset: Tensor
    """[N, 1] float32."""


def quantize_rows(weight: Tensor) -> QuantizedRows:
    """Returns the nearest of 256 evenly spaced values from a row's smallest to its largest.

    No number changes by more than half a step, up to rounding; a row whose numbers are all equal
    does not change. This is how FBGEMM quantizes "fused 8-bit rowwise", whose step differs in the
    last bits.

    Args:
        weight: [N, D] float32, D at least 1.

    Raises:
        ValueError: A number is not finite.
    """
    offset = weight.amin(dim=1, keepdim=True)
    scale = (weight.amax(dim=1, keepdim=True) - offset) / _LEVELS
    if not scale.isfinite().all():
        raise ValueError("a row has numbers that are not finite, or too far apart for float32")
    step = torch.where(scale > 0, scale, 1.0)
    codes = ((weight - offset) / step).round().clamp(0, _LEVELS).to(torch.uint8)
    return QuantizedRows(codes, scale, offset)


def dequantize_rows(codes: Tensor, scale: Tensor, offset: Tensor) -> Tensor:
    """Returns the [N, D] float32 rows that ``QuantizedRows`` stand for."""
    return codes.float() * scale + offset


def half_rows(weight: Tensor) -> Tensor:
    """Returns [N, D] float32 as float16.

    Raises:
        ValueError: A number is not finite as float16.
    """
    half = weight.half()
    if not half.isfinite().all():
        largest = float(weight.abs().amax())
        raise ValueError(f"float16 holds numbers up to 65504, the largest is {largest:g}")
    return half
