"""Batches are found again in the files from what is said of them."""

import re

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tzrec_core.data.build import build_dataset
from tzrec_core.features.build import build_schema
from tzrec_core.protos import data_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

FILES = {"a": 90, "b": 7, "c": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Files with row groups of unequal size; the label is the number of the row in its file."""
    folder = tmp_path_factory.mktemp("location")
    for number, (name, rows) in enumerate(FILES.items()):
        table = pa.table({"row": 1000 * number + np.arange(rows), "x": np.zeros(rows)})
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=13)
        pacsv.write_csv(table, folder / f"{name}.csv")
    return folder


def dataset(pattern, kind=data_pb2.ParquetDataset, **settings):
    config = EasyRecConfig()
    config.data_config.dataset_type = kind
    config.data_config.with_header = True
    config.data_config.label_fields.append("row")
    config.data_config.fg_mode = data_pb2.FG_NORMAL
    for name, value in {"num_workers": 0, "shuffle_buffer_size": 2, **settings}.items():
        setattr(config.data_config, name, value)
    config.feature_configs.add().raw_feature.feature_name = "x"
    config.feature_configs[0].raw_feature.expression = "user:x"
    schema = build_schema(config)
    return build_dataset(
        config, schema, input_path=str(pattern), training=True, rank=0, world_size=1
    )


def used_rows(data, epoch):
    """Yields for each batch its labels, and its rows as they are counted."""
    before = {}
    for batch in data.batches(epoch):
        rows = {w: (before.get(w, 0), stop) for w, stop in batch.position.items()}
        before |= batch.position
        yield batch.labels["row"].tolist(), rows


def listed(text, folder):
    """Returns the labels of the rows that a text lists in full."""
    found = []
    for name, ranges in re.findall(rf"{folder}/(\w)\.parquet rows ([\d, -]+)", text):
        for bounds in ranges.split(", "):
            first, _, last = bounds.partition("-")
            rows = range(int(first), int(last or first) + 1)
            found += [1000 * list(FILES).index(name) + row for row in rows]
    return found


@pytest.mark.parametrize(("shuffle", "batch_size"), [(False, 16), (True, 5)])
def test_the_listed_rows_are_those_of_the_batch(folder, shuffle, batch_size):
    data = dataset(folder / "*.parquet", shuffle=shuffle, batch_size=batch_size)
    num_listed = 0

    for epoch in (0, 1):
        for labels, rows in used_rows(data, epoch):
            text = data.where(epoch, rows)
            if "more" not in text:
                assert sorted(listed(text, folder)) == sorted(labels)
                num_listed += len(labels)

    assert num_listed > 200


def test_of_many_rows_the_first_are_listed(folder, tmp_path):
    table = pa.table({"row": np.arange(400), "x": np.zeros(400)})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=100)
    data = dataset(tmp_path, shuffle=True, batch_size=32)
    labels, rows = next(used_rows(data, 0))

    text = data.where(0, rows)

    match = re.fullmatch(rf"{tmp_path}/a.parquet rows ([\d, -]+) and (\d+) more up to (\d+)", text)
    shown = listed(text.split(" and ")[0], tmp_path)
    assert shown == sorted(labels)[: len(shown)]
    assert len(shown) + int(match[2]) == 32
    assert int(match[3]) == max(labels)


def test_of_csv_the_bytes_are_named(folder):
    size = (folder / "b.csv").stat().st_size
    data = dataset(folder / "b.csv", data_pb2.CsvDataset, batch_size=2)
    batches = [data.where(0, rows) for _, rows in used_rows(data, 0)]

    assert [re.sub(r"\d+-\d+", "m-n", text) for text in batches[:2]] == [
        f"{folder}/b.csv of the bytes m-n",
        f"{folder}/b.csv rows 2 on of the bytes m-n",
    ]
    begin, end = re.search(r"(\d+)-(\d+)", batches[0]).groups()
    assert int(begin) < int(end) < size
