import itertools
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tzrec_core.batch import Batch
from tzrec_core.data import csv_reader
from tzrec_core.data.build import build_dataset, build_reader
from tzrec_core.data.dataset import Dataset
from tzrec_core.data.reader import Part, Reader
from tzrec_core.features.build import build_schema
from tzrec_core.protos import data_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

NUM_ROWS = 700
GROUPS = {"a": 300, "b": 399, "c": 1}


def config_of(format_: str, **settings: object) -> EasyRecConfig:
    """The label is the number of the row, so a batch tells which rows it has."""
    config = EasyRecConfig()
    config.data_config.dataset_type = {
        "parquet": data_pb2.ParquetDataset,
        "csv": data_pb2.CsvDataset,
    }[format_]
    config.data_config.with_header = True
    config.data_config.label_fields.append("row")
    config.data_config.fg_mode = data_pb2.FG_NORMAL
    for name, value in {"batch_size": 16, "num_workers": 0, "shuffle_buffer_size": 4}.items():
        setattr(config.data_config, name, value)
    for name, value in settings.items():
        setattr(config.data_config, name, value)
    config.feature_configs.add().raw_feature.feature_name = "x"
    config.feature_configs[0].raw_feature.expression = "user:x"
    return config


@pytest.fixture(scope="module")
def inputs(tmp_path_factory) -> dict[str, Path]:
    """The same rows in files of unequal size, as Parquet with row groups of 20 rows and as CSV."""
    folders = {kind: tmp_path_factory.mktemp(kind) for kind in ("parquet", "csv")}
    start = 0
    for name, rows in GROUPS.items():
        numbers = np.arange(start, start + rows)
        table = pa.table({"row": numbers, "x": numbers / 2})
        pq.write_table(table, folders["parquet"] / f"{name}.parquet", row_group_size=20)
        pacsv.write_csv(table, folders["csv"] / f"{name}.csv")
        start += rows
    assert start == NUM_ROWS
    return folders


@pytest.fixture(autouse=True)
def small_csv_parts(monkeypatch):
    monkeypatch.setattr(csv_reader, "_MIN_PART_BYTES", 200)


def dataset(
    inputs: dict[str, Path],
    format_: str = "parquet",
    *,
    rank: int = 0,
    world_size: int = 1,
    training: bool = True,
    seed: int = 0,
    **settings: object,
) -> Dataset:
    config = config_of(format_, **({"shuffle": True} | settings))
    return build_dataset(
        config,
        build_schema(config),
        input_path=str(inputs[format_]),
        training=training,
        rank=rank,
        world_size=world_size,
        seed=seed,
    )


def rows_of(batch: Batch) -> list[int]:
    rows = batch.labels["row"].tolist()
    assert batch.dense[:, 0].tolist() == [row / 2 for row in rows]
    return rows


def all_rows(data: Dataset, epoch: int = 0) -> list[int]:
    return [row for batch in data.batches(epoch) for row in rows_of(batch)]


def position_of(batches: Sequence[Batch]) -> Mapping[int, int]:
    return {window: rows for batch in batches for window, rows in batch.position.items()}


class RecordingReader:
    """A reader that remembers what was read."""

    def __init__(self, reader: Reader) -> None:
        self.schema, self.parts, self.num_rows = reader.schema, reader.parts, reader.num_rows
        self.reads: list[Part] = []
        self._reader = reader

    def read(self, part: Part, columns: Sequence[str] | None) -> pa.Table:
        self.reads.append(part)
        return self._reader.read(part, columns)


def recording(
    inputs: dict[str, Path], format_: str, *, num_workers: int
) -> tuple[Dataset, RecordingReader]:
    config = config_of(format_)
    reader = RecordingReader(build_reader(config.data_config, str(inputs[format_])))
    data = Dataset(
        reader,
        build_schema(config),
        batch_size=16,
        shuffle=True,
        shuffle_buffer_size=4,
        drop_remainder=False,
        num_workers=num_workers,
        seed=0,
        rank=0,
        world_size=1,
    )
    return data, reader


@pytest.mark.parametrize("format_", ["parquet", "csv"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_workers", [0, 1, 3])
@pytest.mark.parametrize("world_size", [1, 2, 3, 50])
def test_every_row_comes_exactly_once_over_all_ranks(
    inputs, format_, shuffle, num_workers, world_size
):
    settings = {"shuffle": shuffle, "num_workers": num_workers, "world_size": world_size}
    ranks = [dataset(inputs, format_, rank=rank, **settings) for rank in range(world_size)]

    rows = [row for data in ranks for row in all_rows(data)]

    assert sorted(rows) == list(range(NUM_ROWS))


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_without_shuffling_one_rank_reads_in_the_order_of_the_files(inputs, format_):
    assert all_rows(dataset(inputs, format_, shuffle=False)) == list(range(NUM_ROWS))


def test_evaluation_is_not_shuffled_and_drops_nothing(inputs):
    settings = {"shuffle": True, "drop_remainder": True, "eval_batch_size": 300}
    data = dataset(inputs, training=False, **settings)

    assert [len(batch) for batch in data.batches(0)] == [300, 300, 100]
    assert all_rows(data) == list(range(NUM_ROWS))


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_order_depends_on_seed_and_epoch_but_not_on_the_number_of_threads(inputs, format_):
    first = all_rows(dataset(inputs, format_))

    assert all_rows(dataset(inputs, format_, num_workers=2)) == first
    assert all_rows(dataset(inputs, format_), epoch=1) != first
    assert all_rows(dataset(inputs, format_, seed=1)) != first


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_each_window_has_the_same_rows_in_the_same_order_at_any_world_size(inputs, format_):
    def windows(world_size: int) -> dict[int, list[int]]:
        found = defaultdict(list)
        # At a batch size of 1 the position names the one window that the row is of.
        settings = {"world_size": world_size, "batch_size": 1, "shuffle_buffer_size": 64}
        for rank in range(world_size):
            for batch in dataset(inputs, format_, rank=rank, **settings).batches(3):
                *_, window = batch.position
                found[window] += rows_of(batch)
        return found

    assert windows(1) == windows(2) == windows(5)


def test_shuffling_mixes_row_groups_and_rows(inputs):
    first, *_ = dataset(inputs, batch_size=100, shuffle_buffer_size=10).batches(0)

    groups = Counter(row // 20 for row in rows_of(first))
    assert len(groups) >= 4
    assert rows_of(first) != sorted(rows_of(first))


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_batches_are_full_but_the_last(inputs, format_):
    sizes = [len(batch) for batch in dataset(inputs, format_, batch_size=64).batches(0)]

    assert sizes == [64] * 10 + [60]


def test_a_remainder_can_be_dropped(inputs):
    data = dataset(inputs, batch_size=64, drop_remainder=True)

    assert [len(batch) for batch in data.batches(0)] == [64] * 10


@pytest.mark.parametrize("drop_remainder", [True, False])
@pytest.mark.parametrize("world_size", [1, 3])
def test_number_of_batches_is_known_of_parquet(inputs, drop_remainder, world_size):
    settings = {"world_size": world_size, "drop_remainder": drop_remainder}
    ranks = [dataset(inputs, rank=rank, **settings) for rank in range(world_size)]

    assert [data.num_batches for data in ranks] == [len(list(d.batches(0))) for d in ranks]
    assert ranks[0].num_rows == NUM_ROWS


def test_number_of_batches_is_not_known_of_csv(inputs):
    data = dataset(inputs, "csv")

    assert (data.num_rows, data.num_batches) == (None, None)


def test_small_data_is_dealt_evenly_however_large_the_buffer(inputs):
    ranks = [dataset(inputs, rank=rank, world_size=4, batch_size=500) for rank in range(4)]

    shares = [len(all_rows(data)) / NUM_ROWS for data in ranks]

    assert all(0.2 < share < 0.3 for share in shares)


def interrupt(
    inputs: dict[str, Path], format_: str, world_size: int, after: Sequence[int], num_workers: int
) -> tuple[list[int], dict[int, int]]:
    """Returns the rows of each rank's first batches and the position that a checkpoint holds."""
    rows: list[int] = []
    consumed: dict[int, int] = {}
    for rank in range(world_size):
        settings = {"rank": rank, "world_size": world_size, "num_workers": num_workers}
        data = dataset(inputs, format_, batch_size=30, **settings)
        for batch in islice(data.batches(1), after[rank]):
            rows += rows_of(batch)
            consumed |= batch.position
    return rows, consumed


@pytest.mark.parametrize("format_", ["parquet", "csv"])
@pytest.mark.parametrize("world_size", [1, 2, 3])
@pytest.mark.parametrize("new_world_size", [1, 2, 3])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("after", [(0, 0, 0), (1, 1, 1), (3, 5, 0), (100, 2, 100), (100,) * 3])
def test_after_a_restart_on_any_number_of_ranks_the_epoch_has_had_every_row_once(
    inputs, format_, world_size, new_world_size, num_workers, after
):
    rows, consumed = interrupt(inputs, format_, world_size, after, num_workers)

    for rank in range(new_world_size):
        settings = {"rank": rank, "world_size": new_world_size, "num_workers": num_workers}
        data = dataset(inputs, format_, batch_size=30, **settings)
        for batch in data.batches(1, consumed):
            rows += rows_of(batch)

    assert sorted(rows) == list(range(NUM_ROWS))


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_a_restart_can_be_interrupted_again(inputs, format_):
    rows, consumed = interrupt(inputs, format_, 2, (3, 4), 0)
    for world_size in (3, 1, 2, 1):
        at_start = dict(consumed)
        for rank in range(world_size):
            data = dataset(inputs, format_, batch_size=30, rank=rank, world_size=world_size)
            for batch in islice(data.batches(1, at_start), 2):
                rows += rows_of(batch)
                for window, count in batch.position.items():
                    consumed[window] = max(count, consumed.get(window, 0))
    last = dataset(inputs, format_, batch_size=30).batches(1, consumed)

    assert sorted(rows + [row for batch in last for row in rows_of(batch)]) == list(range(NUM_ROWS))


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_a_restart_on_as_many_ranks_goes_on_with_the_same_batches(inputs, format_):
    ranks = [dataset(inputs, format_, rank=rank, world_size=2) for rank in range(2)]
    whole = [list(data.batches(0)) for data in ranks]
    after = [3, 11]
    consumed = {}
    for batches, stop in zip(whole, after, strict=True):
        consumed |= position_of(batches[:stop])

    for data, batches, stop in zip(ranks, whole, after, strict=True):
        rest = data.batches(0, consumed)
        assert [rows_of(batch) for batch in rest] == [rows_of(batch) for batch in batches[stop:]]


@pytest.mark.parametrize("format_", ["parquet", "csv"])
def test_finished_windows_are_not_read_again(inputs, format_):
    data, reader = recording(inputs, format_, num_workers=0)
    consumed = position_of(list(islice(data.batches(0), 20)))
    before = set(reader.reads)
    reader.reads.clear()
    list(data.batches(0, consumed))

    assert len(set(reader.reads) & before) <= 2  # the parts of the window that was interrupted
    assert len(set(reader.reads) | before) == len(reader.parts)


@pytest.mark.parametrize("consumed", [{0: 10**6}, {10**6: 1}])
def test_a_position_in_other_data_is_refused(inputs, consumed):
    with pytest.raises(ValueError, match="cannot resume: the input is not the one"):
        list(dataset(inputs).batches(0, consumed))


def test_the_signature_tells_orders_apart_but_not_ranks_or_threads(inputs):
    data = dataset(inputs)

    same = [dataset(inputs, num_workers=2), dataset(inputs, rank=1, world_size=2)]
    other = [dataset(inputs, seed=1), dataset(inputs, batch_size=2), dataset(inputs, "csv")]
    assert {d.signature for d in same} == {data.signature}
    assert len({d.signature for d in [data, *other]}) == 4


def write_bad(folder: Path, kind: str) -> None:
    for name in ("a", "b"):
        rows: list[int | None] = list(range(1000))
        if kind == "null label" and name == "b":
            rows[500] = None
        pq.write_table(
            pa.table({"row": pa.array(rows, pa.int64()), "x": np.arange(1000) / 2}),
            folder / f"{name}.parquet",
            row_group_size=100,
        )
    if kind == "damaged":
        path = folder / "b.parquet"
        offset = pq.read_metadata(path).row_group(5).column(1).data_page_offset
        content = bytearray(path.read_bytes())
        content[offset : offset + 30] = b"\xff" * 30
        path.write_bytes(content)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("null label", r"b\.parquet: label.*'row'.*null in 1 of 100"),
        ("damaged", r"b\.parquet: row group 5 cannot be read"),
    ],
)
def test_an_error_in_a_thread_reaches_the_consumer_and_names_the_file(
    tmp_path, num_workers, kind, message
):
    write_bad(tmp_path, kind)
    data = dataset({"parquet": tmp_path}, num_workers=num_workers, shuffle=False, batch_size=100)

    seen = []
    with pytest.raises(ValueError, match=message):
        seen.extend(rows_of(batch) for batch in data.batches(0))
    assert len(seen) == 15


def test_a_missing_or_ill_typed_column_is_found_before_anything_is_read(tmp_path):
    pq.write_table(pa.table({"row": [1]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="'x'"):
        dataset({"parquet": tmp_path})

    pq.write_table(pa.table({"row": [1], "x": [{"y": 1}]}), tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="feature 'x'"):
        dataset({"parquet": tmp_path})


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("read_ahead")]


def test_an_abandoned_iterator_ends_its_threads(inputs):
    iterators = [dataset(inputs, num_workers=2).batches(0) for _ in range(3)]
    for iterator in iterators:
        next(iterator)
    assert reading_threads()

    del iterators, iterator

    deadline = time.monotonic() + 10
    while reading_threads() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not reading_threads()


def test_threads_read_only_a_few_windows_ahead(inputs):
    data, reader = recording(inputs, "parquet", num_workers=2)
    windows = data.windows(0)
    iterator = data.batches(0)
    next(iterator)
    time.sleep(0.5)

    # The first batch's, three ahead of it for each of the prefetched batches.
    assert len(windows) >= 30
    assert len(reader.reads) < len(reader.parts) / 2
    assert sum(1 for _ in iterator) == data.num_batches - 1


def test_positions_count_the_rows_of_each_window(inputs):
    data = dataset(inputs)
    batches = list(data.batches(0))

    assert position_of(batches) == {window.index: window.num_rows for window in data.windows(0)}
    for stop in range(len(batches)):
        assert sum(position_of(batches[:stop]).values()) == stop * 16


def test_ids_outside_their_range_are_said_once(tmp_path, caplog):
    pq.write_table(
        pa.table({"row": range(6), "item": [0, 1, 2, 3, 4, -1]}),
        tmp_path / "rows.parquet",
        row_group_size=2,
    )
    config = config_of("parquet")
    del config.feature_configs[:]
    feature = config.feature_configs.add().id_feature
    feature.feature_name, feature.expression = "item", "item:item"
    feature.num_buckets, feature.embedding_dim = 2, 4
    data = build_dataset(
        config,
        build_schema(config),
        input_path=str(tmp_path),
        training=False,
        rank=0,
        world_size=1,
    )

    lengths = [batch.sparse.lengths().tolist() for batch in data.batches(0)]

    assert lengths == [[1, 1, 0, 0, 0, 0]]
    said = [r.getMessage() for r in caplog.records if r.name == "tzrec_core.data.dataset"]
    assert len(said) == 1
    assert "rows.parquet: 1 of 1 values of feature item are outside its range" in said[0]


LIMIT = 100


def cost_of(row: int) -> int:
    """What a row costs in the input below: 0 to 60, and some more than a batch may."""
    return 3 * LIMIT if row % 97 == 0 else row * 7919 % 61


@pytest.fixture(scope="module")
def costly_inputs(tmp_path_factory) -> dict[str, Path]:
    """The rows of ``inputs``, each with its cost."""
    folders = {kind: tmp_path_factory.mktemp(f"costly_{kind}") for kind in ("parquet", "csv")}
    numbers = np.arange(NUM_ROWS)
    costs = [cost_of(row) for row in range(NUM_ROWS)]
    table = pa.table({"row": numbers, "x": numbers / 2, "tokens": costs})
    for name, start, rows in [("a", 0, 300), ("b", 300, 399), ("c", 699, 1)]:
        part = table.slice(start, rows)
        pq.write_table(part, folders["parquet"] / f"{name}.parquet", row_group_size=20)
        pacsv.write_csv(part, folders["csv"] / f"{name}.csv")
    return folders


BY_COST = {"sample_cost_field": "tokens", "batch_cost_size": LIMIT, "batch_size": 9}


def check_cost(batch: list[int]) -> None:
    assert len(batch) <= BY_COST["batch_size"]
    assert len(batch) == 1 or sum(map(cost_of, batch)) <= LIMIT


@pytest.mark.parametrize("format_", ["parquet", "csv"])
@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("world_size", [1, 3, 50])
def test_batches_by_cost_have_every_row_once_and_keep_the_limit(
    costly_inputs, format_, shuffle, num_workers, world_size
):
    settings = BY_COST | {"shuffle": shuffle, "num_workers": num_workers, "world_size": world_size}
    rows: list[int] = []
    for rank in range(world_size):
        data = dataset(costly_inputs, format_, rank=rank, **settings)
        batches = [rows_of(batch) for batch in data.batches(0)]
        for batch, following in pairwise(batches):
            check_cost(batch)
            is_full = len(batch) == BY_COST["batch_size"]
            assert is_full or sum(map(cost_of, [*batch, following[0]])) > LIMIT
        check_cost(batches[-1] if batches else [])
        rows += [row for batch in batches for row in batch]

    assert sorted(rows) == list(range(NUM_ROWS))


@pytest.mark.parametrize("format_", ["parquet", "csv"])
@pytest.mark.parametrize("world_size", [1, 2])
@pytest.mark.parametrize("new_world_size", [1, 2, 3])
@pytest.mark.parametrize("after", [(0, 0), (3, 11), (1000, 2)])
def test_batches_by_cost_go_on_at_any_number_of_ranks(
    costly_inputs, format_, world_size, new_world_size, after
):
    def batches_of(rank: int, ranks: int, consumed: Mapping[int, int]) -> list[Batch]:
        data = dataset(costly_inputs, format_, rank=rank, world_size=ranks, **BY_COST)
        return list(data.batches(1, consumed))

    whole = [batches_of(rank, world_size, {}) for rank in range(world_size)]
    first = [batches[:stop] for batches, stop in zip(whole, after, strict=False)]
    consumed = position_of([batch for batches in first for batch in batches])
    rest = [batches_of(rank, new_world_size, consumed) for rank in range(new_world_size)]

    rows = [rows_of(batch) for batches in (*first, *rest) for batch in batches]
    assert sorted(itertools.chain(*rows)) == list(range(NUM_ROWS))
    for batch in rows:
        check_cost(batch)
    if new_world_size == world_size:
        for batches, stop, more in zip(whole, after, rest, strict=False):
            assert [rows_of(b) for b in more] == [rows_of(b) for b in batches[stop:]]


def test_batches_by_cost_are_not_counted_before_they_are_read(costly_inputs):
    data = dataset(costly_inputs, **BY_COST)

    assert (data.num_rows, data.num_batches) == (NUM_ROWS, None)


def test_evaluation_keeps_the_limit_too(costly_inputs):
    data = dataset(costly_inputs, training=False, **BY_COST | {"eval_batch_size": 2})

    batches = [rows_of(batch) for batch in data.batches(0)]

    assert max(map(len, batches)) == 2
    for batch in batches:
        check_cost(batch)


def test_rows_that_cost_too_much_are_said_once(costly_inputs, caplog):
    list(dataset(costly_inputs, shuffle=False, **BY_COST).batches(0))

    said = [r.getMessage() for r in caplog.records if r.name == "tzrec_core.data.dataset"]
    assert len(said) == 1
    expected = "a.parquet: 1 of 20 rows cost more than batch_cost_size 100 (tokens up to 300); each"
    assert expected in said[0]


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (None, "is null in 1 of 2 rows"),
        (-3.0, "must be finite and 0 or more, got -3.0"),
        (float("nan"), "must be finite and 0 or more, got nan"),
    ],
)
def test_a_cost_that_is_none_is_an_error_that_names_file_and_column(tmp_path, cost, message):
    costs = pa.array([1.0] * 8 + [cost] + [1.0] * 7, pa.float64())
    table = pa.table({"row": range(16), "x": np.arange(16) / 2, "tokens": costs})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=8)
    data = dataset({"parquet": tmp_path}, shuffle=False, **BY_COST)

    with pytest.raises(ValueError, match=rf"a\.parquet: sample cost, column 'tokens': .*{message}"):
        list(data.batches(0))


def test_a_cost_column_that_is_not_there_is_found_before_anything_is_read(inputs):
    with pytest.raises(ValueError, match="column 'tokens', needed as the sample cost"):
        dataset(inputs, **BY_COST)


def test_a_cost_of_nothing_is_refused(costly_inputs):
    with pytest.raises(ValueError, match="batch_cost_size must be at least 1, got 0"):
        dataset(costly_inputs, **BY_COST | {"batch_cost_size": 0})
