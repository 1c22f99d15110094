import datetime
from collections import defaultdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tzrec_core.data.split import Split, SplitRule, order_keys, smallest

NUM_ROWS = 5000


def build(by: str, table: pa.Table, folder: Path, *, fraction: float = 0.2, seed: int = 0) -> Split:
    rule = SplitRule(by, fraction, seed)
    rule.check(table.schema)
    return rule.build([table.slice(0, 100), table.slice(100)], folder)


def whole(table: pa.Table, by: str, folder: Path, **settings: float) -> np.ndarray:
    return build(by, table, folder, **settings)(table, 0)


@pytest.fixture
def table() -> pa.Table:
    draw = np.random.default_rng(0)
    users = draw.integers(0, 1000, NUM_ROWS)
    return pa.table(
        {
            "user": users,
            "session": pa.array([f"s{u}" for u in users], mask=draw.random(NUM_ROWS) < 0.1),
            "time": draw.permutation(NUM_ROWS) - 2500,
        }
    )


@pytest.mark.parametrize("by", ["rows", "hash:user", "hash:session", "time:time"])
def test_about_the_fraction_is_taken_and_how_rows_are_cut_does_not_matter(tmp_path, table, by):
    split = build(by, table, tmp_path)
    taken = split(table, 0)

    assert 0.17 < taken.mean() < 0.23
    cut = [split(table.slice(0, 1234), 0), split(table.slice(1234), 1234)]
    assert np.concatenate(cut).tolist() == taken.tolist()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("by", ["rows", "hash:user", "hash:session"])
def test_draws_depend_on_the_seed(tmp_path, table, by):
    first = whole(table, by, tmp_path)

    assert whole(table, by, tmp_path).tolist() == first.tolist()
    assert whole(table, by, tmp_path, seed=1).tolist() != first.tolist()


@pytest.mark.parametrize("kind", ["plain", "dictionary", "large"])
def test_a_value_goes_one_way_with_all_its_rows(tmp_path, table, kind):
    column = table["session"]
    if kind == "dictionary":
        column = column.dictionary_encode()
    if kind == "large":
        column = column.cast(pa.large_string())
    taken = whole(table.set_column(1, "session", column), "hash:session", tmp_path)

    ways = defaultdict(set)
    for session, way in zip(table["session"].to_pylist(), taken.tolist(), strict=True):
        ways[session].add(way)
    alone = ways.pop(None)
    assert {len(way) for way in ways.values()} == {1}
    assert alone == {True, False}  # rows without a value are drawn singly


def test_the_hash_split_is_independent_of_the_buckets_of_an_id_feature(tmp_path, table):
    from tzrec_core.features.hashing import hash_ids

    buckets = hash_ids(table["user"].combine_chunks(), 2).to_numpy()
    taken = whole(table, "hash:user", tmp_path, fraction=0.5)

    assert 0.4 < taken[buckets == 0].mean() < 0.6


@pytest.mark.parametrize("fraction", [0.001, 0.1, 0.3, 0.9])
@pytest.mark.parametrize("kind", ["int", "float", "timestamp", "date", "uint32"])
def test_the_latest_rows_are_taken_with_all_ties(tmp_path, fraction, kind):
    draw = np.random.default_rng(0)
    numbers = draw.integers(0, 40, 1000)
    column = {
        "int": pa.array(numbers - 20),
        "float": pa.array((numbers - 20) / 3),
        "timestamp": pa.array([datetime.datetime(2020, 1, 1 + int(n) % 28) for n in numbers]),
        "date": pa.array([datetime.date(1960 + int(n), 1, 1) for n in numbers]),
        "uint32": pa.array(numbers, pa.uint32()),
    }[kind]
    table = pa.table({"time": column})

    taken = whole(table, "time:time", tmp_path, fraction=fraction)

    values = column.to_pylist()
    boundary = sorted(values)[len(values) - round(len(values) * fraction)]
    assert taken.tolist() == [value >= boundary for value in values]


def test_smallest_equals_sorting():
    draw = np.random.default_rng(0)
    keys = draw.integers(0, 2**64, 1000, np.uint64) >> draw.integers(0, 64, 1000, np.uint64)

    found = [smallest(keys, k) for k in range(0, 1000, 7)]
    assert found == np.sort(keys)[::7].tolist()


def test_order_keys_sort_as_the_numbers():
    numbers = np.array([-np.inf, -1e300, -1.5, -1e-300, 0.0, 1e-300, 2.0, 1e300, np.inf])
    keys = order_keys(pa.chunked_array([numbers]))

    assert (np.diff(keys.astype(object)) > 0).all()


@pytest.mark.parametrize("times", [[1, None, 3], [1.0, float("nan"), 2.0]])
def test_a_row_without_time_is_an_error_that_names_the_column(tmp_path, times):
    table = pa.table({"time": times})

    with pytest.raises(ValueError, match=r"time:time.* null in 1 of 3 rows"):
        SplitRule("time:time", 0.5, 0).build([table], tmp_path)


@pytest.mark.parametrize(
    "by", ["row", "hash", "hash:", "time:", "", "hash user", "rows:user", "random:user"]
)
def test_an_unknown_rule_is_an_error_that_lists_the_rules(by):
    with pytest.raises(ValueError, match="split_by must be rows, hash:<column> or time:<column>"):
        SplitRule(by, 0.5, 0)


@pytest.mark.parametrize("fraction", [0, 1, -0.5, 1.5, float("nan")])
def test_a_fraction_outside_0_to_1_is_an_error(fraction):
    with pytest.raises(ValueError, match="eval_fraction must be between 0 and 1"):
        SplitRule("rows", fraction, 0)


@pytest.mark.parametrize(
    ("by", "message"),
    [
        ("hash:nobody", "has only the columns session, time, user"),
        ("time:session", "the column holds string, not numbers, dates or timestamps"),
        ("hash:time", "the column holds double, not strings or integers"),
    ],
)
def test_a_column_that_cannot_split_is_an_error(table, by, message):
    table = table.set_column(2, "time", table["time"].cast(pa.float64()))

    with pytest.raises(ValueError, match=message):
        SplitRule(by, 0.5, 0).check(table.schema)
