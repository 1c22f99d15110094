"""Random numbers that are pure functions of a stream's key and an index.

No generator holds a state, so any number can be drawn alone, in any order, by any worker. The bits
come of integer arithmetic alone: no version of a library changes them.
"""

import hashlib

import numpy as np
import numpy.typing as npt

Numbers = npt.NDArray[np.float64]
Index = npt.NDArray[np.uint64]


def stream_key(seed: int, *names: str) -> np.uint64:
    """Returns the key of the stream of numbers that ``seed`` and ``names`` stand for."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def bits(key: np.uint64, index: Index) -> Index:
    """Returns 64 random bits per index, different ones for different indices of a stream.

    The generator SplitMix64 (Steele, Lea and Flood 2014), entered at any place.
    """
    z = index * np.uint64(0x9E3779B97F4A7C15)
    z += key
    z ^= z >> np.uint64(30)
    z *= np.uint64(0xBF58476D1CE4E5B9)
    z ^= z >> np.uint64(27)
    z *= np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    return z


def uniform(key: np.uint64, index: Index) -> Numbers:
    """Returns a number per index from the open interval (0, 1)."""
    numbers = (bits(key, index) >> np.uint64(12)).astype(np.float64)
    numbers += 0.5
    numbers *= 2.0**-52
    return numbers


def zipf(numbers: Numbers, *, size: int, exponent: float) -> Index:
    """Turns uniform numbers into ids 1..size, id k with a probability near k ** -exponent.

    The inverse of the distribution function of a power law between 1 and size + 1, rounded down.
    """
    if exponent == 1.0:
        ids = (size + 1.0) ** numbers
    else:
        power = 1.0 - exponent
        ids = (numbers * ((size + 1.0) ** power - 1.0) + 1.0) ** (1.0 / power)
    return np.minimum(ids, size).astype(np.uint64)


def scrambled(index: Index, salt: int) -> npt.NDArray[np.uint32]:
    """Returns other 32-bit numbers for indices below 2**32, different ones for different indices.

    The finalizer of MurmurHash3, which is a permutation, after a salt.
    """
    z = index.astype(np.uint32) ^ np.uint32(salt)
    z ^= z >> np.uint32(16)
    z *= np.uint32(0x85EBCA6B)
    z ^= z >> np.uint32(13)
    z *= np.uint32(0xC2B2AE35)
    z ^= z >> np.uint32(16)
    return z
