from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from xxhash import xxh64_intdigest

from tests.tzrec_core.features.parsing import few, parse_schema
from tzrec_core.config import edit
from tzrec_core.features.build import build_schema, encoded_edits
from tzrec_core.features.schema import BatchSchema, FeatureCounts
from tzrec_core.features.transforms import encode, group_ids
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

CONFIG = """
data_config {
  fg_mode: FG_NORMAL
  label_fields: "click" label_fields: "watch_time" sample_weight_fields: "weight"
  sample_cost_field: "tokens"
}
feature_configs { raw_feature {
  feature_name: "age" expression: "user:age_raw" default_value: "30"
  normalizer: "method=log10" fg_encoded_default_value: "7" } }
feature_configs { id_feature {
  feature_name: "city" expression: "user:town" hash_bucket_size: 100 embedding_dim: 4 value_dim: 1
  fg_encoded_default_value: "3" } }
feature_configs { id_feature {
  feature_name: "tags" expression: "item:tags" vocab_list: ["a", "b", "c"] embedding_dim: 4
  default_value: "none" separator: "," } }
feature_configs { id_feature {
  feature_name: "level" expression: "user:level" num_buckets: 5 embedding_dim: 4
  fg_encoded_default_value: "1" } }
feature_configs { id_feature {
  feature_name: "likes" expression: "user:likes" num_buckets: 9 embedding_dim: 4
  weighted: true separator: "," fg_encoded_default_value: "2:2" } }
feature_configs { raw_feature {
  feature_name: "vector" expression: "item:vector" value_dim: 2 default_value: "1" } }
feature_configs { raw_feature {
  feature_name: "price" expression: "item:price" boundaries: [1, 10] embedding_dim: 4
  value_dim: 1 fg_encoded_default_value: "1" } }
feature_configs { raw_feature {
  feature_name: "prices" expression: "item:prices" boundaries: [1, 10] embedding_dim: 4
  default_value: "" } }
model_config {
  metrics { grouped_auc { grouping_key: "city" } }
  metrics { grouped_auc { grouping_key: "session" } }
}
"""
COLUMNS = {
    "age_raw": (pa.float64(), st.none() | st.floats(0, 100)),
    "town": (pa.string(), st.none() | st.sampled_from(["", "rome", "köln", "日本"])),
    "tags": (pa.string(), st.none() | st.sampled_from(["", "a", "a,b", "c,x,,a", "none"])),
    "level": (pa.int32(), st.none() | st.integers(-1, 6)),
    "likes": (pa.string(), st.none() | st.sampled_from(["", "1:0.5", "8:2,9:1,0:-1", "12:1"])),
    "vector": (pa.list_(pa.float32()), st.none() | st.just([0.5, None]) | st.just([1.0, 2.0])),
    "price": (pa.float32(), st.none() | st.sampled_from([0.0, 1.0, 5.0, 10.0])),
    "prices": (pa.list_(pa.float64()), st.none() | st.lists(st.sampled_from([0.0, 1.0, 11.0]))),
    "click": (pa.int8(), st.integers(0, 1)),
    "watch_time": (pa.float64(), st.floats(0, 1e6)),
    "weight": (pa.float32(), st.floats(0, 10, width=32)),
    "session": (pa.int64(), st.none() | st.integers(-5, 5)),
    "tokens": (pa.int32(), st.integers(0, 9)),
}
ROWS = st.lists(st.fixed_dictionaries({name: values for name, (_, values) in COLUMNS.items()}))
TYPES = {
    "age": pa.float32(),
    "city": pa.int64(),
    "tags": pa.list_(pa.int64()),
    "level": pa.int64(),
    "likes": pa.map_(pa.int64(), pa.float32()),
    "vector": pa.list_(pa.float32(), 2),
    "price": pa.int64(),
    "prices": pa.list_(pa.int64()),
    "click": pa.int64(),
    "watch_time": pa.float32(),
    "weight": pa.float32(),
    "city@id": pa.int64(),
    "session@id": pa.int64(),
    "tokens@cost": pa.float64(),
}


def schemas() -> tuple[BatchSchema, BatchSchema]:
    """Returns the schema for raw data and the one for what it encodes to."""
    config = text_format.Parse(CONFIG, EasyRecConfig())
    raw_schema = build_schema(config)
    edit(config, encoded_edits(config))
    return raw_schema, build_schema(config)


RAW_SCHEMA, ENCODED_SCHEMA = schemas()


def table_of(rows: list[dict[str, object]]) -> pa.Table:
    return pa.table(
        {name: pa.array([row[name] for row in rows], kind) for name, (kind, _) in COLUMNS.items()}
    )


@few
@given(ROWS)
def test_encoded_columns_have_their_types_and_encoding_again_changes_nothing(rows):
    once = encode(table_of(rows), RAW_SCHEMA).table
    twice = encode(once, ENCODED_SCHEMA)

    assert {field.name: field.type for field in once.schema} == TYPES
    assert once.num_rows == len(rows)
    assert twice.table.equals(once)
    assert all(counts.out_of_vocabulary == 0 for counts in twice.counts.values())


def test_encoded_columns_survive_parquet(tmp_path):
    others = {"click": 1, "watch_time": 1.0, "weight": 1.0, "tokens": 1}
    rows = [{name: None for name in COLUMNS} | others]
    once = encode(table_of(rows), RAW_SCHEMA).table
    pq.write_table(once, tmp_path / "part.parquet")

    assert encode(pq.read_table(tmp_path / "part.parquet"), ENCODED_SCHEMA).table.equals(once)


@few
@given(ROWS, st.lists(st.integers(0, 10), max_size=3))
def test_slices_and_chunks_encode_like_the_whole(rows, cuts):
    table = table_of(rows)
    whole = encode(table, RAW_SCHEMA)
    bounds = [0, *sorted(min(cut, len(rows)) for cut in cuts), len(rows)]
    slices = [table.slice(a, b - a) for a, b in pairwise(bounds)]
    chunked = encode(pa.concat_tables(slices), RAW_SCHEMA)

    assert chunked.table.equals(whole.table)
    assert chunked.counts == whole.counts
    assert pa.concat_tables(encode(part, RAW_SCHEMA).table for part in slices).equals(whole.table)


def test_counts_tell_what_was_lost():
    rows = [
        {"level": 5, "tags": "a,x", "town": None, "likes": "12:1"},
        {"level": None, "tags": None, "town": "", "likes": ""},
        {"level": 1, "tags": "x,,x", "town": "rome", "likes": "1:1,2:1,10:1"},
    ]
    others = {"click": 0, "watch_time": 0.0, "weight": 1.0, "tokens": 1}
    table = table_of([{name: None for name in COLUMNS} | others | row for row in rows])
    counts = encode(table, RAW_SCHEMA).counts

    assert counts["level"] == FeatureCounts(3, nulls=1, values=2, out_of_vocabulary=1)
    assert counts["tags"] == FeatureCounts(3, nulls=1, values=4, out_of_vocabulary=3)
    assert counts["city"] == FeatureCounts(3, nulls=2, values=1, out_of_vocabulary=0)
    assert counts["likes"] == FeatureCounts(3, nulls=1, values=4, out_of_vocabulary=2)
    assert counts["age"] == FeatureCounts(3, nulls=3, values=0, out_of_vocabulary=0)


def test_rows_of_encoded_data_that_lack_an_id_get_the_default_for_encoded_data():
    config = text_format.Parse(
        """
        data_config { fg_mode: FG_NONE fg_encoded_multival_sep: ";" }
        feature_configs { id_feature { feature_name: "a" num_buckets: 5 embedding_dim: 4
          default_value: "no id" fg_encoded_default_value: "2;3" } }
        feature_configs { id_feature { feature_name: "b" num_buckets: 5 embedding_dim: 4 } }
        feature_configs { raw_feature { feature_name: "c" fg_encoded_default_value: "0.5" } }
        feature_configs { raw_feature { feature_name: "d" value_dim: 2 default_value: "4" } }
        """,
        EasyRecConfig(),
    )
    raw = pa.table(
        {
            "a": ["1;4", "", None, "9;1", "9"],
            "b": ["1;4", "", None, "9;1", "9"],
            "c": [1.0, None, 2.0, 3.0, 4.0],
            "d": ["1;2", None, "", "3;4", ";5"],
        }
    )
    encoded = encode(raw, build_schema(config)).table

    assert encoded.to_pydict() == {
        "a": [[1, 4], [2, 3], [2, 3], [1], [2, 3]],
        "b": [[1, 4], [], [], [1], []],
        "c": [1.0, 0.5, 2.0, 3.0, 4.0],
        "d": [[1, 2], [4, 4], [4, 4], [3, 4], [4, 5]],
    }


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (pa.int8(), [3, None, -4], [3, None, -4]),
        (pa.uint64(), [3, 2**64 - 1], [3, -1]),
        (pa.float64(), [3.0, None], [3, None]),
        (pa.bool_(), [True, False], [1, 0]),
    ],
)
def test_an_integer_key_is_its_own_id(kind, values, expected):
    assert group_ids(pa.array(values, kind)).to_pylist() == expected


@few
@given(st.lists(st.none() | st.text(max_size=3)))
def test_a_string_key_has_its_signed_hash_as_id(values):
    expected = [np.uint64(xxh64_intdigest((v or "").encode())).astype(np.int64) for v in values]
    expected = [int(h) if v else None for v, h in zip(values, expected, strict=True)]

    assert group_ids(pa.array(values, pa.string())).to_pylist() == expected
    assert group_ids(pa.array(values, pa.string()).dictionary_encode()).to_pylist() == expected


SMALL = """
data_config {{
  fg_mode: {mode} label_fields: "y" sample_weight_fields: "w" sample_cost_field: "n" }}
feature_configs {{ id_feature {{
  feature_name: "f" expression: "user:c" num_buckets: 5 embedding_dim: 4 }} }}
model_config {{ metrics {{ grouped_auc {{ grouping_key: "g" }} }} }}
"""
GOOD = {"c": [1, 2], "y": [0, 1], "w": [1.0, 2.0], "g": ["a", "b"], "n": [3, 5]}


def test_grouping_ids_of_encoded_data_win_over_the_key_itself():
    raw = pa.table({"f": [1], "y": [0], "w": [1.0], "g": ["a"], "g@id": [17], "n": [0]})

    assert encode(raw, parse_schema(SMALL.format(mode="FG_NONE"))).table["g@id"].to_pylist() == [17]


def test_a_feature_and_the_cost_of_a_row_may_be_the_same_column():
    schema = parse_schema(SMALL.format(mode="FG_NORMAL").replace('"n"', '"c"'))

    encoded = encode(pa.table(GOOD), schema).table

    assert (encoded["f"].to_pylist(), encoded["c@cost"].to_pylist()) == ([1, 2], [1.0, 2.0])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        (pa.bool_(), pa.int64()),
        (pa.int8(), pa.int64()),
        (pa.uint32(), pa.int64()),
        (pa.float16(), pa.float32()),
        (pa.float64(), pa.float32()),
        (pa.decimal128(22, 1), pa.float32()),
    ],
)
def test_a_label_is_an_integer_or_a_float(kind, expected):
    raw = pa.table({**GOOD, "y": pa.array([0, 1]).cast(kind)})
    label = encode(raw, parse_schema(SMALL.format(mode="FG_NORMAL"))).table["y"]

    assert label.type == expected
    assert label.to_pylist() == [0, 1]


def test_a_label_may_be_dictionary_encoded():
    raw = pa.table({**GOOD, "y": pa.array([0, 1]).dictionary_encode()})

    assert encode(raw, parse_schema(SMALL.format(mode="FG_NORMAL"))).table["y"].to_pylist() == [
        0,
        1,
    ]


def test_a_column_may_be_label_and_weight():
    schema = BatchSchema((), labels=("y",), sample_weights=("y",))

    assert encode(pa.table({"y": [1, 2]}), schema).table.to_pydict() == {"y": [1, 2]}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": ["1", "two"]}, "feature 'f', column 'c': ids must be integers .*'two'"),
        ({"y": [1, None]}, "label, column 'y': is null in 1 of 2 rows"),
        ({"y": ["0", "1"]}, "label, column 'y': must be integers, floats or booleans, got string"),
        ({"y": [0.0, np.nan]}, "label, column 'y': must be finite as float32, got nan"),
        ({"y": [0.0, 1e40]}, r"label, column 'y': must be finite as float32, got 1e\+40"),
        ({"y": pa.array([1, 2**63], pa.uint64())}, "label, column 'y': .*9223372036854775808"),
        ({"w": [None, None]}, "sample weight, column 'w': must be integers, floats .*, got null"),
        ({"w": [None, 1.0]}, "sample weight, column 'w': is null in 1 of 2 rows"),
        ({"w": [1.0, -2.0]}, "sample weight, column 'w': must be 0 or more, got -2.0"),
        ({"w": [np.inf, 1.0]}, "sample weight, column 'w': must be finite as float32, got inf"),
        ({"n": [1, None]}, "sample cost, column 'n': is null in 1 of 2 rows"),
        ({"n": [1, -2]}, "sample cost, column 'n': must be finite and 0 or more, got -2.0"),
        ({"n": [1, np.nan]}, "sample cost, column 'n': must be finite and 0 or more, got nan"),
        ({"n": [np.inf, 1]}, "sample cost, column 'n': must be finite and 0 or more, got inf"),
        ({"n": ["1", "2"]}, "sample cost, column 'n': must be integers, floats .*, got string"),
        ({"g": [[1], [2]]}, "grouping key 'g', column 'g': ids must be integers, strings"),
        ({"g": [0.5, 1.0]}, "grouping key 'g', column 'g': ids must be integers, got 0.5"),
    ],
)
def test_a_bad_value_is_an_error_that_names_its_column(changes, message):
    with pytest.raises(ValueError, match=message):
        encode(pa.table({**GOOD, **changes}), parse_schema(SMALL.format(mode="FG_NORMAL")))


def test_nulls_of_a_label_are_counted_over_all_chunks():
    table = pa.concat_tables([pa.table({**GOOD, "y": [1, None]})] * 3)

    with pytest.raises(ValueError, match="null in 3 of 6 rows"):
        encode(table, parse_schema(SMALL.format(mode="FG_NORMAL")))


@pytest.mark.parametrize(
    ("missing", "user"),
    [
        ("c", "feature 'f'"),
        ("y", "a label"),
        ("w", "a sample weight"),
        ("g", "grouping key 'g'"),
        ("n", "the sample cost"),
    ],
)
def test_a_missing_column_is_an_error_that_names_it_its_user_and_the_columns(missing, user):
    raw = pa.table({**GOOD, "other": [1, 2]}).drop_columns([missing])
    there = ", ".join(sorted(raw.column_names))

    with pytest.raises(ValueError, match=f"column '{missing}', needed as {user}, .*are {there}$"):
        encode(raw, parse_schema(SMALL.format(mode="FG_NORMAL")))
