"""Distinct pairs of rows drawn at random: the k-th of a draw by formula, none kept in memory.

The pairs i < j of n rows are numbered 0 .. n (n - 1) / 2 - 1. A draw of m distinct ones is the
first m entries of a pseudo-random permutation of these numbers. All arithmetic is in int64.
"""

from torch import Tensor

from tzrec_core.metrics.exchange import mixed

_NUM_ROUNDS = 6


def pair_of(number: Tensor) -> tuple[Tensor, Tensor]:
    """Returns rows i < j of pairs by number = j (j - 1) / 2 + i; int64 of the same shape, each."""
    # Right up to one: the root's error is below 1 as long as numbers are below 2^60.
    j = ((8 * number.double() + 1).sqrt().long() + 1) // 2
    j = j - (j * (j - 1) // 2 > number).long()
    j = j + (j * (j + 1) // 2 <= number).long()
    return number - j * (j - 1) // 2, j


def permuted(number: Tensor, size: Tensor, key: Tensor) -> Tensor:
    """Returns where the permutation of 0 .. size - 1 that belongs to ``key`` takes ``number``.

    A Feistel cipher on pairs from ranges of about sqrt(size) each, applied again where the result
    is outside (Black and Rogaway, "Ciphers with Arbitrary Finite Domains", 2002).

    Args:
        number: [m] int64, from 0 up to below ``size``.
        size: [m] int64, from 1 to 2^60.
        key: [m] int64.

    Returns:
        [m] int64.
    """
    width = size.double().sqrt().long() + 1
    result = _encrypted(number, width, (size + width - 1) // width, key)
    outside = (result >= size).nonzero().flatten()
    while len(outside):
        part_width, part_size = width[outside], size[outside]
        height = (part_size + part_width - 1) // part_width
        walked = _encrypted(result[outside], part_width, height, key[outside])
        result[outside] = walked
        outside = outside[walked >= part_size]
    return result


def _encrypted(number: Tensor, width: Tensor, height: Tensor, key: Tensor) -> Tensor:
    """Permutes 0 .. width * height - 1."""
    left, right = number // height, number % height
    for _ in range(_NUM_ROUNDS // 2):
        key = mixed(key)
        left = (left + _non_negative(mixed(right ^ key))) % width
        key = mixed(key)
        right = (right + _non_negative(mixed(left ^ key))) % height
    return left * height + right


def _non_negative(values: Tensor) -> Tensor:
    # Two bits fewer than there are: a place is added to it.
    return values & (2**62 - 1)
