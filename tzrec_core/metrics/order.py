"""Sorting of rows by any number, stable, and on a CPU several times as fast as ``torch.sort``."""

import torch
from torch import Tensor


def argsort(values: Tensor) -> Tensor:
    """Returns the stable ascending order of values along the last dimension.

    On a CPU numpy sorts integers with vector instructions, but has no stable argsort that does: so
    a value and its position share the bits of one integer, and these integers are sorted. If 64
    bits do not hold both, rows are sorted by the low half of the values and then by the high half.

    Args:
        values: [..., n], any float or integer type, no NaN; n < 2^31. 0.0 and -0.0 are equal.

    Returns:
        [..., n] int64.
    """
    values = ordinals(values)
    if not values.is_cpu:
        return torch.argsort(values, stable=True)
    position = torch.arange(values.shape[-1])
    if values.numel() == 0:
        return position.expand(values.shape)
    low, high = (int(end) for end in values.aminmax())
    position_bits = len(position).bit_length()
    if max(~low, high).bit_length() + position_bits > 63:
        order = argsort(values & 0xFFFFFFFF)
        return order.gather(-1, argsort((values >> 32).gather(-1, order)))
    packed = position.expand(values.shape).contiguous().add_(values, alpha=1 << position_bits)
    packed.numpy().sort(axis=-1)
    return packed.bitwise_and_((1 << position_bits) - 1)


def lexsort(*keys: Tensor) -> Tensor:
    """Returns the stable [n] order of rows by the last key, then by the one before it, and so on.

    Args:
        keys: [n] each, at least one, of the types that ``argsort`` takes.
    """
    order = argsort(keys[0])
    for key in keys[1:]:
        if (key != key[:1]).any():  # else all rows are of one group, as often
            order = order.gather(0, argsort(key.gather(0, order)))
    return order


def ordinals(values: Tensor) -> Tensor:
    """Returns int32 or int64 numbers that compare as the values do.

    The bits of an IEEE 754 float, read as an integer, compare as the float does, but for negative
    floats, whose bits but the sign are inverted here.

    Args:
        values: Any float or integer type, no NaN. 0.0 and -0.0 are equal.
    """
    if not values.is_floating_point():
        return values.long()
    if values.dtype != torch.float64:
        values = values.float()
    values = values + 0.0  # makes 0.0 of -0.0
    bits = values.view(torch.int64 if values.dtype == torch.float64 else torch.int32)
    info = torch.iinfo(bits.dtype)
    return (bits >> (info.bits - 1)).bitwise_and_(info.max).bitwise_xor_(bits)
