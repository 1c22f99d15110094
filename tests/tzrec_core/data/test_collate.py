import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from tests.tzrec_core.features.parsing import parse_schema
from tzrec_core.batch import NULL_ID, Batch
from tzrec_core.data.collate import collate, empty_batch

Rows = list[dict[str, object]]

SCHEMA = parse_schema(
    """
    data_config {
      fg_mode: FG_NORMAL
      label_fields: ["click", "watch_time"] sample_weight_fields: ["weight", "click"]
    }
    feature_configs { raw_feature { feature_name: "d1" expression: "d1" } }
    feature_configs { id_feature {
      feature_name: "one" expression: "one" num_buckets: 9 embedding_dim: 4 } }
    feature_configs { raw_feature { feature_name: "d3" expression: "d3" value_dim: 3 } }
    feature_configs { id_feature {
      feature_name: "many" expression: "many" num_buckets: 9 embedding_dim: 4 } }
    feature_configs { id_feature {
      feature_name: "w" expression: "w" num_buckets: 9 embedding_dim: 4 weighted: true } }
    feature_configs { id_feature {
      feature_name: "full" expression: "full" num_buckets: 9 embedding_dim: 4 } }
    feature_configs { id_feature {
      feature_name: "w2" expression: "w2" num_buckets: 9 embedding_dim: 4 weighted: true } }
    feature_configs { raw_feature { feature_name: "d2" expression: "d2" } }
    model_config {
      metrics { grouped_auc { grouping_key: "session" } }
      metrics { grouped_auc { grouping_key: "user" } }
    }
    """
)
FLOATS = st.floats(-10, 10, width=32)
IDS = st.integers(0, 8)
PAIRS = st.lists(st.tuples(IDS, FLOATS), max_size=3)
COLUMNS = {
    "d1": (pa.float32(), FLOATS),
    "one": (pa.int64(), st.none() | IDS),
    "d3": (pa.list_(pa.float32(), 3), st.lists(FLOATS, min_size=3, max_size=3)),
    "many": (pa.list_(pa.int64()), st.lists(IDS, max_size=3)),
    "w": (pa.map_(pa.int64(), pa.float32()), PAIRS),
    "full": (pa.int64(), IDS),
    "w2": (pa.map_(pa.int64(), pa.float32()), PAIRS),
    "d2": (pa.float32(), FLOATS),
    "click": (pa.int64(), st.integers(0, 1)),
    "watch_time": (pa.float32(), FLOATS),
    "weight": (pa.float32(), FLOATS),
    "session@id": (pa.int64(), st.none() | st.integers(-(2**62), 2**62)),
    "user@id": (pa.int64(), st.integers(0, 3)),
}
ROWS = st.lists(st.fixed_dictionaries({name: values for name, (_, values) in COLUMNS.items()}))


def table_of(rows: Rows) -> pa.Table:
    return pa.table(
        {name: pa.array([row[name] for row in rows], kind) for name, (kind, _) in COLUMNS.items()}
    )


def check_ids(ids: KeyedJaggedTensor | None, keys: list[str], rows: Rows) -> None:
    assert ids is not None
    assert ids.keys() == keys
    assert ids.stride() == len(rows)
    assert (ids.values().dtype, ids.lengths().dtype) == (torch.int64, torch.int32)
    if not rows:  # TorchRec cannot take a KeyedJaggedTensor of no rows apart
        assert len(ids.values()) == len(ids.lengths()) == 0
        return
    for key, jagged in ids.to_dict().items():
        bags = [[row[key]] if isinstance(row[key], int) else row[key] or [] for row in rows]
        weighted = ids.weights_or_none() is not None
        expected = [[pair[0] for pair in bag] if weighted else bag for bag in bags]
        assert [bag.tolist() for bag in jagged.to_dense()] == expected
        if weighted:
            expected = [[pair[1] for pair in bag] for bag in bags]
            assert jagged.weights().dtype == torch.float32
            assert [bag.tolist() for bag in jagged.to_dense_weights()] == expected


def check(batch: Batch, rows: Rows) -> None:
    """Compares with the rows, one by one."""
    assert len(batch) == len(rows)
    dense = [[row["d1"], *row["d3"], row["d2"]] for row in rows]  # type: ignore[misc]
    assert batch.dense.dtype == torch.float32
    assert batch.dense.is_contiguous()
    assert batch.dense.shape == (len(rows), 5)
    assert batch.dense.tolist() == dense
    check_ids(batch.sparse, ["one", "many", "full"], rows)
    check_ids(batch.weighted, ["w", "w2"], rows)

    def check_column(tensor: Tensor, name: str, dtype: torch.dtype) -> None:
        assert tensor.dtype == dtype
        assert tensor.tolist() == [NULL_ID if row[name] is None else row[name] for row in rows]

    assert list(batch.labels) == ["click", "watch_time"]
    check_column(batch.labels["click"], "click", torch.int64)
    check_column(batch.labels["watch_time"], "watch_time", torch.float32)
    assert list(batch.sample_weights) == ["weight", "click"]
    check_column(batch.sample_weights["weight"], "weight", torch.float32)
    check_column(batch.sample_weights["click"], "click", torch.float32)
    check_column(batch.ids("session"), "session@id", torch.int64)
    check_column(batch.ids("user"), "user@id", torch.int64)


@settings(max_examples=20, deadline=None)
@given(ROWS, st.integers(0, 10), st.integers(0, 10), st.integers(0, 10))
def test_a_batch_holds_the_rows_of_its_table_however_they_lie_in_memory(rows, start, size, cut):
    table = table_of(rows)
    check(collate(table, SCHEMA, {}), rows)

    part = rows[start : start + size]
    check(collate(table.slice(start, size), SCHEMA, {}), part)

    chunked = pa.concat_tables([table.slice(0, cut), table.slice(cut, 0), table.slice(cut)])
    check(collate(chunked, SCHEMA, {}), rows)
    check(collate(chunked.slice(start, size), SCHEMA, {}), part)


def test_a_batch_keeps_its_position_and_no_memory_of_the_table():
    rows = [
        {"d1": 1.0, "one": 1, "d3": [1.0, 2.0, 3.0], "many": [2], "w": [(1, 1.0)], "full": 1}
        | {"w2": [], "d2": 0.0, "click": 1, "watch_time": 1.0, "weight": 1.0}
        | {"session@id": None, "user@id": 1}
    ]
    table = table_of(rows)
    position = {4: 1}
    batch = collate(table, SCHEMA, position)
    position[4] = 2
    assert batch.position == {4: 1}

    before = table.to_pydict()
    assert batch.sparse is not None
    for tensor in (batch.dense, batch.sparse.values(), *batch.labels.values()):
        tensor.fill_(7)
    assert table.to_pydict() == before


def test_an_empty_batch_is_like_a_batch_of_no_rows():
    empty = empty_batch(SCHEMA)
    check(collate(table_of([]), SCHEMA, {}), [])

    assert len(empty) == 0
    assert empty.dense.shape == (0, 5)
    for ids, keys in ((empty.sparse, ["one", "many", "full"]), (empty.weighted, ["w", "w2"])):
        check_ids(ids, keys, [])
    assert empty.position == {}
    assert all(len(empty.labels[name]) == 0 for name in SCHEMA.labels)
    assert all(len(empty.sample_weights[name]) == 0 for name in SCHEMA.sample_weights)
    assert all(len(empty.ids(key)) == 0 for key in SCHEMA.group_keys)


def test_a_schema_without_features_of_a_kind_gives_a_batch_without_them():
    schema = parse_schema('data_config { label_fields: "y" }')
    batch = collate(pa.table({"y": [1, 0]}), schema, {})

    assert (batch.sparse, batch.weighted) == (None, None)
    assert (len(batch), batch.dense.shape) == (2, (2, 0))
    assert (len(empty_batch(schema)), empty_batch(schema).sparse) == (0, None)


@pytest.mark.parametrize("weighted", [False, True])
def test_torchrec_pools_the_ids_of_a_batch(weighted):
    rows = [
        {"d1": 1.0, "one": one, "d3": [1.0, 2.0, 3.0], "many": many, "w": w, "full": 1}
        | {"w2": [], "d2": 0.0, "click": 1, "watch_time": 1.0, "weight": 1.0}
        | {"session@id": None, "user@id": 1}
        for one, many, w in [
            (1, [2, 3], [(1, 2.0)]),
            (None, [], []),
            (3, [4], [(1, 0.5), (2, 1.0)]),
        ]
    ]
    batch = collate(table_of(rows), SCHEMA, {})
    keys = ["w", "w2"] if weighted else ["one", "many", "full"]
    tables = [
        EmbeddingBagConfig(
            name=f"{key}_table", num_embeddings=9, embedding_dim=4, feature_names=[key]
        )
        for key in keys
    ]
    pooled = EmbeddingBagCollection(tables, is_weighted=weighted)
    result = pooled(batch.weighted if weighted else batch.sparse).to_dict()

    for key in keys:
        weight = pooled.embedding_bags[f"{key}_table"].weight
        for i, row in enumerate(rows):
            bag = [row[key]] if isinstance(row[key], int) else row[key] or []
            pairs = bag if weighted else [(found, 1.0) for found in bag]
            expected = sum((w * weight[found] for found, w in pairs), torch.zeros(4))
            torch.testing.assert_close(result[key][i], expected)
