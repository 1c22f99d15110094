from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from tzrec_core.data.shuffle import KEY_COLUMN, KeySorter, mix64, random_keys


def test_mix64_is_the_published_generator():
    # SplitMix64 with the state 1234567: the test vector of Rosetta Code's "Pseudo-random numbers".
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423, 4593380528125082431]
    golden = 0x9E3779B97F4A7C15
    states = [(1234567 + index * golden) % 2**64 for index in range(4)]

    assert mix64(np.array(states, np.uint64)).tolist() == expected


def test_keys_do_not_depend_on_how_rows_are_cut():
    whole = random_keys(3, "train", 0, 100)

    cut = [random_keys(3, "train", 0, 40), random_keys(3, "train", 40, 60)]
    assert np.concatenate(cut).tolist() == whole.tolist()


def test_keys_differ_by_seed_and_stream_and_spread_over_64_bits():
    keys = [random_keys(seed, name, 0, 1000) for seed in (0, 1) for name in ("train", "eval")]

    assert len(np.unique(np.concatenate(keys))) == 4000
    for bit in range(64):
        ones = (np.concatenate(keys) >> np.uint64(bit)) & np.uint64(1)
        assert 0.45 < ones.mean() < 0.55


def shuffled(folder: Path, chunk: int, *, num_rows: int, max_rows: int) -> pa.Table:
    sorter = KeySorter(folder / "files", max_rows_in_memory=max_rows)
    for start in range(0, num_rows, chunk):
        stop = min(start + chunk, num_rows)
        table = pa.table(
            {
                "row": np.arange(start, stop),
                "ids": [[row] * (row % 3) for row in range(start, stop)],
                KEY_COLUMN: random_keys(0, "x", start, stop - start),
            }
        )
        sorter.add(table)
    tables = list(sorter.sorted())
    assert all(len(table) <= max(max_rows, chunk) for table in tables)
    return pa.concat_tables(tables)


@pytest.mark.parametrize("chunk", [7, 100, 1000])
@pytest.mark.parametrize("max_rows", [12, 60, 500, 10_000])  # two levels, one level, memory
def test_rows_are_sorted_by_key_however_little_memory_there_is(tmp_path, chunk, max_rows):
    found = shuffled(tmp_path, chunk, num_rows=1000, max_rows=max_rows)

    order = np.argsort(random_keys(0, "x", 0, 1000))
    assert found["row"].to_pylist() == order.tolist()
    assert found["ids"].to_pylist() == [[row] * (row % 3) for row in order.tolist()]
    assert found.column_names == ["row", "ids"]
    assert list(tmp_path.iterdir()) == []  # temporary files are gone


def test_the_order_looks_random():
    rows = np.argsort(random_keys(0, "train", 0, 10_000))

    # Of a random permutation: no correlation with the place, and neighbours n / 3 apart.
    assert abs(np.corrcoef(rows, np.arange(10_000))[0, 1]) < 0.04
    assert np.abs(np.diff(rows)).mean() == pytest.approx(10_000 / 3, rel=0.05)


def test_rows_with_equal_keys_stay_in_order(tmp_path):
    sorter = KeySorter(tmp_path / "files", max_rows_in_memory=40)
    keys = np.repeat(random_keys(0, "x", 0, 50), 3)
    for start in range(0, 150, 10):
        part = slice(start, start + 10)
        sorter.add(pa.table({"row": np.arange(150)[part], KEY_COLUMN: keys[part]}))

    rows = pa.concat_tables(sorter.sorted())["row"].to_pylist()
    assert rows == np.argsort(keys, kind="stable").tolist()


def test_nothing_added_gives_nothing(tmp_path):
    assert list(KeySorter(tmp_path / "files", max_rows_in_memory=10).sorted()) == []
