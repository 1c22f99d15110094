import re
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tzrec_core.features.parsing import few, sliced
from tzrec_core.features.hashing import hash_ids, hash_text
from tzrec_core.features.transforms import group_ids

MASK = 2**64 - 1
P1, P2, P3, P4, P5 = (
    11400714785074694791,
    14029467366897019727,
    1609587929392839161,
    9650029242287828579,
    2870177450012600261,
)


def rotate(x: int, bits: int) -> int:
    return ((x << bits) | (x >> (64 - bits))) & MASK


def mix(accumulator: int, lane: int) -> int:
    return rotate((accumulator + lane * P2) & MASK, 31) * P1 & MASK


def xxh64(data: bytes) -> int:
    """XXH64 with seed 0, written from the algorithm's specification."""
    lanes = [int.from_bytes(data[i : i + 8], "little") for i in range(0, len(data) // 8 * 8, 8)]
    num_striped = len(data) // 32 * 4
    if num_striped:
        accumulators = [(P1 + P2) & MASK, P2, 0, -P1 & MASK]
        for i, lane in enumerate(lanes[:num_striped]):
            accumulators[i % 4] = mix(accumulators[i % 4], lane)
        state = sum(map(rotate, accumulators, (1, 7, 12, 18))) & MASK
        for accumulator in accumulators:
            state = ((state ^ mix(0, accumulator)) * P1 + P4) & MASK
    else:
        state = P5
    state = (state + len(data)) & MASK
    for lane in lanes[num_striped:]:
        state = (rotate(state ^ mix(0, lane), 27) * P1 + P4) & MASK
    rest = data[len(lanes) * 8 :]
    if len(rest) >= 4:
        state ^= int.from_bytes(rest[:4], "little") * P1 & MASK
        state = (rotate(state, 23) * P2 + P3) & MASK
        rest = rest[4:]
    for byte in rest:
        state = rotate(state ^ byte * P5 & MASK, 11) * P1 & MASK
    state = (state ^ (state >> 33)) * P2 & MASK
    state = (state ^ (state >> 29)) * P3 & MASK
    return state ^ (state >> 32)


@pytest.mark.parametrize(
    ("text", "published"),
    [
        ("", 0xEF46DB3751D8E999),
        ("a", 0xD24EC4F1A98C6E5B),
        ("abc", 0x44BC2CF5AD770999),
        ("xxhash", 0x32DD38952C4BC720),
        ("Nobody inspects the spammish repetition", 0xFBCEA83C8A378BF1),
    ],
)
def test_hash_is_the_published_one(text, published):
    assert xxh64(text.encode()) == published
    assert hash_text(pa.array([text])).tolist() == [published]


@few
@given(st.lists(st.text(max_size=80), max_size=20))
def test_hash_is_xxh64_of_the_utf8_bytes(values):
    expected = [xxh64(value.encode()) for value in values]

    assert hash_text(pa.array(values, pa.string())).tolist() == expected
    assert hash_text(sliced(pa.array(values, pa.large_string()))).tolist() == expected


@few
@given(
    st.lists(st.none() | st.integers(-(2**63), 2**63 - 1), max_size=20),
    st.sampled_from([1, 2, 1000, 2**63 - 1]),
)
def test_an_integer_hashes_like_its_decimal_digits(values, num_buckets):
    expected = [None if v is None else xxh64(str(v).encode()) % num_buckets for v in values]

    assert hash_ids(pa.array(values, pa.int64()), num_buckets).to_pylist() == expected


def test_the_documented_examples_are_true():
    text = (Path(__file__).parents[3] / "docs/features.md").read_text()
    rows = re.findall(r"^\| `(.+)` \| `([0-9a-f]{16})` \| (\d+) \| (-?\d+) \|$", text, re.M)

    assert len(rows) >= 5
    for value, digits, bucket, group_id in rows:
        assert hash_text(pa.array([value])).tolist() == [int(digits, 16)]
        assert hash_ids(pa.array([value]), 1_000_000).to_pylist() == [int(bucket)]
        assert group_ids(pa.array([value])).to_pylist() == [int(group_id)]
