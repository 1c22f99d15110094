import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tzrec_core.data.batching import ALL_ROWS, Rows, Window, cut_batches


def windows_of(costs, sizes, *, known=True):
    """The rows 0, 1, 2, ... with their costs, in windows of some sizes and one of the rest."""
    bounds = [0, *itertools.accumulate(sizes), len(costs)]
    bounds = [min(bound, len(costs)) for bound in bounds]
    return [
        Rows(
            Window(index, (), stop - start if known else None),
            0,
            pa.table({"row": pa.array(range(start, stop), pa.int64())}),
            np.array(costs[start:stop], np.float64),
        )
        for index, (start, stop) in enumerate(itertools.pairwise(bounds))
    ]


def cut(windows, batch_size, limit, *, drop_remainder=False):
    return [
        (table["row"].to_pylist(), position)
        for table, position in cut_batches(
            windows, batch_size=batch_size, batch_cost_size=limit, drop_remainder=drop_remainder
        )
    ]


def one_row_after_the_other(costs, batch_size, limit):
    """Batches as one makes them who looks at a row at a time."""
    batches = []
    for row, cost in enumerate(costs):
        fits = batches and len(batches[-1]) < batch_size
        if limit is not None and fits:
            fits = sum(costs[other] for other in batches[-1]) + cost <= limit
        if fits:
            batches[-1].append(row)
        else:
            batches.append([row])
    return batches


# Eighths are exact, so no sum depends on the order of its terms.
COSTS = st.lists(st.sampled_from([0, 0, 0.125, 1, 2.5, 3, 7, 20]), max_size=40)
few = settings(max_examples=100, deadline=None)
SIZES = st.lists(st.integers(0, 9), max_size=8)


@few
@given(COSTS, SIZES, st.integers(1, 6), st.none() | st.integers(1, 10))
def test_batches_are_those_of_one_who_takes_a_row_at_a_time(costs, sizes, batch_size, limit):
    batches = cut(windows_of(costs, sizes), batch_size, limit)

    assert [rows for rows, _ in batches] == one_row_after_the_other(costs, batch_size, limit)


@few
@given(COSTS, SIZES, st.integers(1, 6), st.integers(1, 10), st.booleans())
def test_positions_tell_where_to_go_on(costs, sizes, batch_size, limit, known):
    windows = windows_of(costs, sizes, known=known)
    batches = cut(windows, batch_size, limit)

    consumed: dict[int, int] = {}
    for number, (_, position) in enumerate(batches, start=1):
        consumed |= position
        rest = [
            Rows(window, start, table.slice(start), costs[start:])
            for window, _, table, costs in windows
            if (start := consumed.get(window.index, 0)) < ALL_ROWS
        ]
        assert [rows for rows, _ in cut(rest, batch_size, limit)] == [
            rows for rows, _ in batches[number:]
        ]


@few
@given(COSTS, SIZES, st.integers(1, 6), st.none() | st.integers(1, 10))
def test_a_remainder_is_a_last_batch_that_could_take_another_row(costs, sizes, batch_size, limit):
    windows = windows_of(costs, sizes)
    batches = cut(windows, batch_size, limit)

    kept = cut(windows, batch_size, limit, drop_remainder=True)

    if batches:
        last, _ = batches[-1]
        is_full = len(last) == batch_size
        is_full |= limit is not None and sum(costs[row] for row in last) >= limit
        assert kept == (batches if is_full else batches[:-1])


def test_a_row_that_costs_too_much_is_a_batch_of_its_own():
    batches = cut(windows_of([1, 100, 1, 1, 50], [2]), 10, 5)

    assert [rows for rows, _ in batches] == [[0], [1], [2, 3], [4]]


@pytest.mark.parametrize("limit", [None, 10**6])
def test_without_a_limit_that_matters_batches_are_full(limit):
    batches = cut(windows_of([1] * 23, [4, 0, 9]), 5, limit)

    assert [len(rows) for rows, _ in batches] == [5, 5, 5, 5, 3]
