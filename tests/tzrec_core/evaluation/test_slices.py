"""Slices share the rows among them, and each has the rows that its name says."""

import itertools
import math

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tzrec_core.evaluation.slices import MISSING, OTHERS, cut

NUMBERS = st.floats(-1e6, 1e6, width=32) | st.sampled_from([math.inf, -math.inf, 0.0, -0.0])


def chunked(values, kind):
    half = len(values) // 2
    return pa.chunked_array([pa.array(values[:half], kind), pa.array(values[half:], kind)])


def by_name(slices):
    return {part.name: part.rows.tolist() for part in slices}


@given(
    values=st.lists(st.none() | st.sampled_from("abcdefgh"), max_size=60),
    max_parts=st.integers(1, 10),
)
@settings(deadline=None)
def test_text_becomes_its_most_frequent_values_and_all_others(values, max_parts):
    slices = by_name(cut("c", chunked(values, pa.string()), boundaries=[], max_parts=max_parts))

    counts = {value: values.count(value) for value in set(values) - {None}}
    named = sorted(counts, key=lambda value: (-counts[value], value))
    if len(named) > max_parts:
        named = named[: max_parts - 1]
    expected = {value: [i for i, v in enumerate(values) if v == value] for value in named}
    expected[OTHERS] = [i for i, v in enumerate(values) if v is not None and v not in named]
    expected[MISSING] = [i for i, v in enumerate(values) if v is None]
    assert slices == {name: rows for name, rows in expected.items() if rows}
    assert list(slices)[: len(named)] == sorted(named)


@given(values=st.lists(NUMBERS, min_size=1, max_size=60), max_parts=st.integers(1, 8))
@settings(deadline=None)
def test_numbers_become_ranges_of_about_equal_numbers_of_rows(values, max_parts):
    slices = cut("c", chunked(values, pa.float64()), boundaries=[], max_parts=max_parts)

    assert sorted(row for part in slices for row in part.rows.tolist()) == list(range(len(values)))
    assert len(slices) <= max_parts
    of_parts = [[values[row] for row in part.rows] for part in slices]
    for below, above in itertools.pairwise(of_parts):
        assert max(below) < min(above)
    if len(set(values)) == len(values) > max_parts:
        sizes = [len(part) for part in of_parts]
        assert max(sizes) - min(sizes) <= 1


def test_ranges_have_their_lower_ends_and_leave_out_empty_ones():
    values = [None, math.nan, -5.0, 10.0, 19.5, 20.0, 70.0]

    slices = by_name(
        cut("c", chunked(values, pa.float64()), boundaries=[10, 20, 50, 60], max_parts=10)
    )

    assert slices == {
        "< 10": [2],
        "10 to 20": [3, 4],
        "20 to 50": [5],
        ">= 60": [6],
        MISSING: [0, 1],
    }


def test_a_few_whole_numbers_are_a_slice_each_in_their_order():
    slices = by_name(cut("c", chunked([30, 4, 30, 4, -1], pa.int64()), boundaries=[], max_parts=3))

    assert list(slices.items()) == [("-1", [4]), ("4", [1, 3]), ("30", [0, 2])]


def test_a_column_without_any_value_is_one_slice():
    slices = cut("c", chunked([None, None], pa.string()), boundaries=[], max_parts=3)

    assert by_name(slices) == {MISSING: [0, 1]}


def test_boundaries_of_text_are_refused():
    with pytest.raises(ValueError, match=r"slices of 'country' have boundaries, but .* text"):
        cut("country", chunked(["a"], pa.string()), boundaries=[1.0], max_parts=3)


def test_large_integers_are_told_apart():
    values = [2**62, 2**62 + 1]

    slices = by_name(cut("c", chunked(values, pa.int64()), boundaries=[], max_parts=3))

    assert slices == {str(value): [row] for row, value in enumerate(values)}


def test_ranges_of_timestamps_have_different_names():
    hours = [1_762_530_000 + 3600 * hour for hour in range(40)]

    slices = by_name(cut("c", chunked(hours, pa.int64()), boundaries=[], max_parts=4))

    edges = [hours[10], hours[20], hours[30]]
    assert list(slices) == [
        f"< {edges[0]}", f"{edges[0]} to {edges[1]}", f"{edges[1]} to {edges[2]}", f">= {edges[2]}"
    ]  # fmt: skip
    assert [len(rows) for rows in slices.values()] == [10] * 4


@given(
    values=st.lists(
        st.floats(0.999999, 1.0000001) | st.floats(allow_nan=False), min_size=1, max_size=40
    ),
    max_parts=st.integers(1, 8),
)
@settings(deadline=None)
def test_names_of_ranges_differ(values, max_parts):
    slices = cut("c", chunked(values, pa.float64()), boundaries=[], max_parts=max_parts)

    assert len({part.name for part in slices}) == len(slices)


def test_few_digits_suffice_for_edges_that_differ_early():
    slices = cut(
        "c", chunked([0.0, 0.5, 9.0], pa.float64()), boundaries=[1 / 3, 2 / 3], max_parts=9
    )

    assert [part.name for part in slices] == [
        "< 0.333333", "0.333333 to 0.666667", ">= 0.666667"
    ]  # fmt: skip


@given(values=st.permutations([OTHERS, MISSING, f"'{MISSING}'", None, "a", "b", "b"]))
def test_values_that_are_called_like_the_rest_are_told_from_it(values):
    slices = cut("c", chunked(values, pa.string()), boundaries=[], max_parts=4)

    assert len({part.name for part in slices}) == len(slices) == 5
