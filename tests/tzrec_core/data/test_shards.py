import math
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tzrec_core.data.shards import cut, group_rows, write_shards


@pytest.mark.parametrize("size", [1, 3, 10, 100])
@pytest.mark.parametrize("lengths", [[], [0], [5], [10, 10], [1, 0, 2, 30, 4], [100, 1]])
def test_cutting_keeps_rows_and_order(size, lengths):
    bounds = np.cumsum([0, *lengths]).tolist()
    tables = [pa.table({"x": np.arange(a, b)}) for a, b in pairwise(bounds)]

    pieces = list(cut(iter(tables), size))

    assert [x for piece in pieces for x in piece["x"].to_pylist()] == list(range(bounds[-1]))
    assert all(len(piece) == size for piece in pieces[:-1])
    assert all(0 < len(piece) <= size for piece in pieces)


@pytest.mark.parametrize("num_rows", [1, 1024, 20_000, 10**6, 10**9])
def test_every_rank_and_thread_finds_row_groups_where_rows_allow(num_rows):
    size = group_rows(num_rows)

    assert math.ceil(num_rows / size) >= min(16, math.ceil(num_rows / 1024))
    assert 1024 <= size <= 65536


def test_shards_hold_the_groups_in_order(tmp_path):
    groups = [pa.table({"x": [index] * (index + 1)}) for index in range(40)]

    num_shards = write_shards(iter(groups), tmp_path / "train")

    files = sorted((tmp_path / "train").iterdir())
    assert [file.name for file in files] == [f"part-{i:05}.parquet" for i in range(num_shards)]
    found = [
        pq.ParquetFile(file).read_row_group(group)
        for file in files
        for group in range(pq.read_metadata(file).num_row_groups)
    ]
    assert found == groups
