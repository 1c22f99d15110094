import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tzrec_core.features.parsing import few, sliced, string_forms
from tzrec_core.features import columns
from tzrec_core.features.columns import Lists

ROWS = st.lists(st.none() | st.lists(st.none() | st.integers(0, 9), max_size=3), max_size=8)


def rows_of(rows: Lists) -> list[list[object]]:
    values = rows.values.to_pylist()
    return [values[a:b] for a, b in zip(rows.offsets, rows.offsets[1:], strict=False)]


def array_with_hidden_values() -> pa.Array:
    """Returns [[1], null, [4]], where the null row's place in memory is not empty."""
    return pa.ListArray.from_arrays([0, 1, 3, 4], [1, 2, 3, 4], mask=pa.array([False, True, False]))


@few
@given(ROWS)
def test_lists_are_the_rows_with_nulls_empty(rows):
    expected = [row or [] for row in rows]
    for kind in (pa.list_(pa.int64()), pa.large_list(pa.int32())):
        column = pa.array(rows, kind)
        assert rows_of(columns.lists(column)) == expected
        assert rows_of(columns.lists(sliced(column))) == expected
        assert rows_of(columns.lists(column[1:])) == expected[1:]


def test_lists_are_the_rows_of_fixed_size_lists_and_of_null_rows_with_values():
    fixed = pa.array([[1, 2], None, [3, None]], pa.list_(pa.int64(), 2))

    assert rows_of(columns.lists(fixed)) == [[1, 2], [], [3, None]]
    assert rows_of(columns.lists(fixed[1:])) == [[], [3, None]]
    assert rows_of(columns.lists(array_with_hidden_values())) == [[1], [], [4]]


def test_lists_of_a_map_are_its_entries():
    column = pa.array(
        [[("a", 1.0), ("b", 2.0)], None, [], [("c", None)]], pa.map_("string", "float")
    )
    expected = [
        [{"key": "a", "value": 1.0}, {"key": "b", "value": 2.0}],
        [],
        [],
        [{"key": "c", "value": None}],
    ]

    assert rows_of(columns.lists(column)) == expected
    assert rows_of(columns.lists(column[1:])) == expected[1:]
    assert rows_of(columns.lists(sliced(column))) == expected


@few
@given(ROWS, st.lists(st.integers(10, 19), max_size=3))
def test_rows_left_empty_without_their_nulls_are_filled(rows, default):
    kept = columns.without_nulls(columns.lists(pa.array(rows, pa.list_(pa.int64()))))
    expected = [[value for value in row or [] if value is not None] for row in rows]

    assert rows_of(kept) == expected

    filled = columns.fill_empty(kept, pa.array(default, pa.int64()))
    expected = [row or default for row in expected]

    assert rows_of(filled) == expected
    assert columns.list_array(filled).to_pylist() == expected


def test_more_values_than_32_bit_offsets_can_count_are_an_error():
    with pytest.raises(ValueError, match="2147483648 values in one chunk"):
        columns.offsets32(np.array([0, 2**31]))


@few
@given(st.lists(st.none() | st.floats(width=32) | st.just(""), max_size=8))
def test_strings_are_the_numbers_that_they_spell(values):
    expected = [np.nan if value in (None, "") else value for value in values]
    texts = [None if value is None else str(value) for value in values]

    for column in string_forms(texts):
        np.testing.assert_array_equal(columns.numbers(column), expected)


def test_numbers_of_every_kind_are_float64():
    kinds = ["int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
    kinds += ["halffloat", "float", "double"]
    for kind in [*kinds, pa.decimal128(30, 2), pa.decimal256(40, 2), pa.bool_()]:
        column = pa.array([1, None, 0], pa.int64()).cast(kind)
        np.testing.assert_array_equal(columns.numbers(column), [1, np.nan, 0])
    np.testing.assert_array_equal(columns.numbers(pa.nulls(2)), [np.nan, np.nan])
    assert columns.numbers(pa.array([2**63 - 1])) == [2.0**63]


@pytest.mark.parametrize("column", [pa.array(["1", "one"]), pa.array([b"\xff"], pa.binary())])
def test_a_string_that_spells_no_number_is_an_error(column):
    with pytest.raises(ValueError, match=r"must be numbers.*'one'|UTF8"):
        columns.numbers(column)


@pytest.mark.parametrize("column", [pa.array([[1.0]]), pa.array([1], pa.timestamp("s"))])
def test_a_column_of_another_kind_has_no_numbers(column):
    with pytest.raises(ValueError, match="values must be numbers or strings that spell them, got"):
        columns.numbers(column)
