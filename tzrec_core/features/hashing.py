"""Hashing of values: stable across versions, machines and languages (see docs/features.md)."""

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from xxhash import xxh64_intdigest


def hash_text(values: pa.Array) -> npt.NDArray[np.uint64]:
    """Returns the XXH64 (seed 0) of the UTF-8 bytes of each string.

    This is a Python loop, so ``values`` should be distinct values, not rows; none may be null.
    """
    values = values.cast(pa.large_string())
    if len(values) == 0:
        return np.zeros(0, np.uint64)
    _, offset_buffer, bytes_buffer = values.buffers()
    offsets = np.frombuffer(offset_buffer, np.int64)[values.offset :][: len(values) + 1]
    start, size = int(offsets[0]), int(offsets[-1] - offsets[0])
    text = bytes_buffer.slice(start, size).to_pybytes() if size else b""
    ends = pairwise((offsets - start).tolist())
    return np.array([xxh64_intdigest(text[a:b]) for a, b in ends], np.uint64)


def hash_ids(values: pa.Array, num_buckets: int) -> pa.Array:
    """Returns ``hash modulo num_buckets`` of ids, null for null.

    Args:
        values: Strings or integers, an integer counting as its decimal digits; as such or
            dictionary-encoded.
        num_buckets: At most 2**63.
    """
    if not pa.types.is_dictionary(values.type):
        values = values.dictionary_encode()
    buckets = hash_text(values.dictionary) % np.uint64(num_buckets)
    return pa.array(buckets.astype(np.int64)).take(values.indices)
