from functools import reduce
from operator import add

import numpy as np
import pyarrow as pa
import pytest

from tzrec_core.data.statistics import SKETCH_SIZE, ColumnSummary, describe, summarize


def of_chunks(column: pa.Array, chunk: int, *, is_number: bool) -> ColumnSummary:
    pieces = [pa.chunked_array([column.slice(i, chunk)]) for i in range(0, len(column), chunk)]
    return reduce(add, [summarize(piece, is_number=is_number) for piece in pieces])


@pytest.mark.parametrize("chunk", [1, 17, 1000])
@pytest.mark.parametrize("kind", [np.float32, np.float64, np.int64])
def test_numbers_are_summarised_as_by_numpy(chunk, kind):
    numbers = (np.random.default_rng(0).normal(1000, 3, 500) * 4).round().astype(kind)

    found = describe(of_chunks(pa.array(numbers), chunk, is_number=True))

    assert found == {
        "nulls": 0,
        "null_share": 0,
        "distinct": len(np.unique(numbers)),
        "distinct_is_exact": True,
        "min": numbers.min(),
        "mean": pytest.approx(numbers.astype(np.float64).mean(), rel=1e-12),
        "max": numbers.max(),
        "std": pytest.approx(numbers.astype(np.float64).std(), rel=1e-9),
    }


@pytest.mark.parametrize(
    ("kind", "rows", "nulls", "values"),
    [
        (pa.int64(), [1, None, 2, 1, None], 2, [1, 2]),
        (pa.list_(pa.int64()), [[1, 2], [], None, [2, 3, 3]], 2, [1, 2, 3]),
        (pa.map_(pa.int64(), pa.float32()), [[(1, 0.5)], [], None, [(1, 1), (2, 1)]], 2, [1, 2]),
        (pa.list_(pa.float32(), 2), [[1, 2], [2, 3]], 0, [1, 2, 3]),
    ],
)
@pytest.mark.parametrize("offset", [0, 1, 2])
def test_nulls_and_values_of_every_encoded_type_are_counted(kind, rows, nulls, values, offset):
    # In the middle of a longer array, as slices of tables are.
    column = pa.array(rows[:offset] + rows + rows, kind).slice(offset, len(rows))

    found = describe(summarize(pa.chunked_array([column]), is_number=False))

    assert (found["nulls"], found["distinct"]) == (nulls, len(values))
    assert found["null_share"] == nulls / len(rows)
    assert "mean" not in found


def test_numbers_of_fixed_size_lists_are_all_counted():
    column = pa.chunked_array([pa.array([[1, 2], [3, 6]], pa.list_(pa.float32(), 2))])

    found = describe(summarize(column, is_number=True))

    assert (found["min"], found["mean"], found["max"]) == (1, 3, 6)


@pytest.mark.parametrize("count", [SKETCH_SIZE - 1, 3 * SKETCH_SIZE, 100_000])
@pytest.mark.parametrize("kind", [np.int64, np.float64])
def test_the_number_of_different_values_is_exact_or_close_and_needs_no_more_memory(count, kind):
    values = np.random.default_rng(0).permutation(np.repeat(np.arange(count).astype(kind), 2))

    distinct = of_chunks(pa.array(values), 5000, is_number=False).distinct

    assert len(distinct.hashes) <= SKETCH_SIZE
    assert distinct.is_exact == (count < SKETCH_SIZE)
    # 4 standard errors of a KMV sketch.
    tolerance = 0 if distinct.is_exact else 4 / np.sqrt(SKETCH_SIZE)
    assert abs(distinct.count / count - 1) <= tolerance


def test_a_column_without_values_and_numbers_that_are_not_finite_are_described():
    empty = pa.chunked_array([pa.array([None, None], pa.int64())])
    infinite = pa.chunked_array([pa.array([1.0, float("inf")])])

    assert describe(summarize(empty, is_number=True)) == {
        "nulls": 2,
        "null_share": 1,
        "distinct": 0,
        "distinct_is_exact": True,
    }
    with np.errstate(invalid="ignore"):
        assert describe(summarize(infinite, is_number=True))["max"] is None
