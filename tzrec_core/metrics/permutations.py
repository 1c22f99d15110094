"""Counts of the pairs of a permutation that are in order."""

import torch
from torch import Tensor

from tzrec_core.metrics.order import argsort

# Permutations up to this length are counted in the bits of one integer.
_SHORT = 64


def count_smaller_before(permutation: Tensor) -> Tensor:
    """Counts for each entry of a permutation the earlier entries that are smaller.

    Positions are cut into chunks, and values into buckets, of w each, w near sqrt(n). The earlier
    and smaller entries

    - in an earlier chunk and a lower bucket are read from a cumulated table, of about n cells, of
      how many entries of each chunk are in each bucket;
    - in the same chunk are counted in the same way within the chunk;
    - in an earlier chunk and the same bucket are, with positions and values exchanged, counted in
      the same way within the bucket.

    2n / w problems of size w remain: O(n log n) in all. The memory it takes is about 40 bytes an
    entry, since small problems are solved a part at a time.

    Args:
        permutation: [n] int64, each of 0 .. n - 1 once.

    Returns:
        [n] int64.
    """
    n = len(permutation)
    if n <= _SHORT:
        return _count_short(permutation[None])[0]
    num_added = -n % _width(n)
    added = torch.arange(n, n + num_added, device=permutation.device)
    return _count_long(torch.cat([permutation, added])[None])[0, :n]


def _width(n: int) -> int:
    return 1 << ((n - 1).bit_length() + 1) // 2


def _count_long(rows: Tensor) -> Tensor:
    """``count_smaller_before`` of each of [num_rows, n] int64; the width must divide n."""
    n = rows.shape[1]
    width = _width(n)
    count = _count_across(rows, width)
    _add_count(rows.view(-1, width), count.view(-1, width))

    position = torch.arange(n, device=rows.device)
    position_of_value = _put(position.expand_as(rows), rows).view(-1, width)
    # Entries of one chunk get into descending order here, so that they are not counted again.
    position_of_value.bitwise_or_(width - 1).sub_(position[:width])
    of_value = torch.zeros_like(position_of_value)
    _add_count(position_of_value, of_value)
    return count.add_(of_value.view_as(rows).gather(1, rows))


def _count_across(rows: Tensor, width: int) -> Tensor:
    """Counts for each of [num_rows, n] entries those in an earlier chunk and a lower bucket."""
    num_rows, n = rows.shape
    side = n // width + 1
    table_row = torch.arange(num_rows * side, device=rows.device).view(num_rows, side, 1)
    bucket = (rows // width).view(num_rows, -1, width)
    cell = bucket.add_(table_row[:, :-1] * side).flatten()
    # A row and a column on, so that what is cumulated up to a cell leaves its row and column out.
    shift = side + 1
    table = torch.bincount(cell + shift, minlength=num_rows * side**2 + shift)
    table = table[: num_rows * side**2].view(num_rows, side, side).cumsum_(1).cumsum_(2)
    return table.flatten().gather(0, cell).view_as(rows)


def _add_count(rows: Tensor, count: Tensor) -> None:
    """Adds to [num_rows, n] counts the smaller entries before in the row; no two are equal."""
    n = rows.shape[1]
    # On a CPU so few entries stay in the cache, and torch does not share them out among threads,
    # which would have to wait for each other at every step. A GPU needs more to do.
    num_rows = max(1, (2**14 if rows.is_cpu else 2**24) // n)
    for part, part_count in zip(rows.split(num_rows), count.split(num_rows), strict=True):
        by_value = argsort(part)
        counted = _count_short(by_value) if n <= _SHORT else _count_long(by_value)
        part_count += _put(counted, by_value)


def _count_short(rows: Tensor) -> Tensor:
    """``count_smaller_before`` of each of [num_rows, n]; entries become bits, n <= 64."""
    bit = torch.ones_like(rows) << rows
    before = bit.cumsum(1) - bit
    return _count_bits(before & (bit - 1))


def _count_bits(words: Tensor) -> Tensor:
    """Counts the bits of int64 words, not negative: by twos, fours and eights, and adds those."""
    words = words - ((words >> 1) & 0x5555555555555555)
    words = (words & 0x3333333333333333) + ((words >> 2) & 0x3333333333333333)
    words = (words + (words >> 4)) & 0x0F0F0F0F0F0F0F0F
    return (words * 0x0101010101010101) >> 56


def _put(values: Tensor, order: Tensor) -> Tensor:
    """Returns the tensor whose entries at ``order`` are ``values``, row by row."""
    return torch.empty_like(values).scatter_(1, order, values)
