"""Encodes rows by features.json alone, one after the other, and compares with the library."""

import json
import math

import numpy as np
import pyarrow as pa
import pytest
import xxhash

from tzrec_core.config import loads
from tzrec_core.exporting.specification import specify
from tzrec_core.features.build import build_schema
from tzrec_core.features.transforms import encode
from tzrec_core.protos import data_pb2

CONFIG = """
data_config {{ fg_mode: FG_DAG dataset_type: ParquetDataset }}
feature_configs {{ id_feature {{ feature_name: "city" expression: "user:city"
  hash_bucket_size: 97 embedding_dim: 4 value_dim: 1 default_value: "Rome" }} }}
feature_configs {{ id_feature {{ feature_name: "words" expression: "item:words"
  hash_bucket_size: 11 embedding_dim: 4 separator: " " pooling: "mean" }} }}
feature_configs {{ id_feature {{ feature_name: "number" expression: "item:number"
  num_buckets: 6 embedding_dim: 4 default_bucketize_value: 5 }} }}
feature_configs {{ id_feature {{ feature_name: "numbers" expression: "item:numbers"
  num_buckets: 6 embedding_dim: 4 default_value: "1,2" separator: "," }} }}
feature_configs {{ id_feature {{ feature_name: "listed" expression: "user:city"
  vocab_list: ["Oslo", "Rome"] embedding_dim: 4 value_dim: 1 default_value: "none" }} }}
feature_configs {{ id_feature {{ feature_name: "mapped" expression: "user:city"
  vocab_dict {{ key: "Oslo" value: 3 }} vocab_dict {{ key: "Lima" value: 1 }}
  embedding_dim: 4 value_dim: 1 default_bucketize_value: 2 }} }}
feature_configs {{ id_feature {{ feature_name: "filed" expression: "user:city"
  vocab_file: "{vocabulary}" embedding_dim: 4 value_dim: 1 }} }}
feature_configs {{ id_feature {{ feature_name: "history" expression: "user:history" num_buckets: 9
  weighted: true separator: "|" default_value: "7:0.5" embedding_dim: 4 }} }}
feature_configs {{ raw_feature {{ feature_name: "price" expression: "item:price"
  normalizer: "method=log10,threshold=0.1,default=-3" default_value: "0.25" }} }}
feature_configs {{ raw_feature {{ feature_name: "place" expression: "user:place" value_dim: 2
  separator: ";" default_value: "1;2" }} }}
feature_configs {{ raw_feature {{ feature_name: "price_step" expression: "item:price"
  boundaries: [0.5, 1, 10] embedding_dim: 4 default_value: "" }} }}
feature_configs {{ raw_feature {{ feature_name: "price_log" expression: "item:price"
  boundaries: [-1, 0, 1] normalizer: "method=log10,threshold=0.1,default=-3" embedding_dim: 4 }} }}
"""
ROWS = {
    "city": ["Oslo", "Rome", None, "", "Bonn", "Lima"],
    "words": ["a b", None, "", "b", "c  a", "ü"],
    "number": [0, 5, 6, None, -1, 3],
    "numbers": ["0,5", "6", None, "", "3,9,3", "4"],
    "history": ["1:0.5|2:3", None, "9:1", "8:-2", "", "0:1|0:2"],
    "price": [0.05, None, 0.5, 1.0, 12.5, 100.0],
    "place": [[0.5, 1.5], None, [None, 3.0], [4.0, None], [1.0, 1.0], [0.0, 0.0]],
}


def values_of(raw, feature):
    """Returns the values of a row that are not missing, as text."""
    if raw is None:
        return []
    if isinstance(raw, str) and feature["separator"] is not None:
        raw = raw.split(feature["separator"])
    values = raw if isinstance(raw, list) else [raw]
    return [str(value) for value in values if value not in (None, "")]


def id_of(value, feature, vocabulary):
    """Returns the id of a value, None if it is dropped."""
    ids = feature["ids"]
    match ids["method"]:
        case "xxh64":
            return xxhash.xxh64_intdigest(value.encode()) % ids["buckets"]
        case "number":
            found = int(value) if 0 <= int(value) < ids["below"] else None
        case "vocabulary":
            entries = dict(ids["entries"])
            if "file" in ids:
                assert ids["file"] == str(vocabulary)
                for line in vocabulary.read_text().splitlines():
                    entries.setdefault(line, ids["first_id"] + len(entries) - len(ids["entries"]))
            found = entries.get(value)
    return feature["unknown_id"] if found is None else found


def ids_of(raw, feature, vocabulary):
    """Returns ids and weights of a row."""
    values, weights = values_of(raw, feature), None
    if feature["kind"] == "weighted ids":
        weights = [float(value.rpartition(":")[2]) for value in values]
        values = [value.rpartition(":")[0] for value in values]
    ids = [id_of(value, feature, vocabulary) for value in values]
    kept = [i for i, found in enumerate(ids) if found is not None]
    if not kept:
        return feature["default_ids"], feature.get("default_weights")
    return [ids[i] for i in kept], weights and [weights[i] for i in kept]


def numbers_of(raw, feature):
    """Returns the numbers of a row; NaN where one is missing and has no default."""
    values = raw if isinstance(raw, list) else [raw]
    default, count = feature["default"], feature["numbers_per_row"] or 1  # None: any number
    if raw is None:
        values = [None] * count
    if default:
        default = default * (count // len(default))
    return [
        np.float32(normalized(value, feature["normalizer"]))
        if value is not None
        else np.float32(default[i] if default else math.nan)
        for i, value in enumerate(values)
    ]


def normalized(value, normalizer):
    if normalizer is None:
        return value
    method, threshold, default = (part.partition("=")[2] for part in normalizer.split(","))
    assert method == "log10"
    return math.log10(value) if value > float(threshold) else float(default)


@pytest.fixture
def config(tmp_path):
    (tmp_path / "cities.txt").write_text("Lima\nOslo\n")
    return loads(CONFIG.format(vocabulary=tmp_path / "cities.txt"), source="test")


def test_the_specification_says_all_that_it_takes_to_encode_rows(config, tmp_path):
    schema = build_schema(config, training_labels=False)
    specified = json.loads(json.dumps(specify(config.feature_configs, schema), allow_nan=False))
    encoded = encode(pa.table(ROWS), schema).table

    assert {f["kind"] for f in specified["sparse"]} == {"ids", "weighted ids", "buckets"}
    names = [f["name"] for f in (*specified["dense"], *specified["sparse"])]
    assert sorted(names) == sorted(encoded.column_names)
    for feature in specified["dense"]:
        for raw, found in zip(
            ROWS[feature["column"]], encoded[feature["name"]].to_pylist(), strict=True
        ):
            numbers = found if isinstance(found, list) else [found]
            np.testing.assert_array_equal(np.float32(numbers), numbers_of(raw, feature))
    for feature in specified["sparse"]:
        for raw, found in zip(
            ROWS[feature["column"]], encoded[feature["name"]].to_pylist(), strict=True
        ):
            assert in_one_form(found) == expected_ids(raw, feature, tmp_path / "cities.txt")


def in_one_form(found):
    """Returns ids and weights of an encoded row."""
    if isinstance(found, list) and found and isinstance(found[0], tuple):
        return [key for key, _ in found], [weight for _, weight in found]
    if found is None:
        found = []
    return (found if isinstance(found, list) else [found]), None


def expected_ids(raw, feature, vocabulary):
    if feature["kind"] == "buckets":
        (number,) = numbers_of(raw, feature)
        if math.isnan(number):
            return [], None
        return [sum(np.float32(b) <= number for b in feature["boundaries"])], None
    return ids_of(raw, feature, vocabulary)


def test_tables_are_described_as_the_model_has_them(config):
    schema = build_schema(config, training_labels=False)
    specified = specify(config.feature_configs, schema)

    tables = {feature["name"]: feature["table"] for feature in specified["sparse"]}
    assert tables["city"] == {"name": "city_emb", "rows": 97, "dim": 4, "pooling": "sum"}
    assert tables["words"]["pooling"] == "mean"
    assert tables["price_step"]["rows"] == 4
    assert tables["filed"]["rows"] == 4  # for a missing value and an unknown one, and two cities


def test_encoded_data_are_specified_as_ids(config):
    config.data_config.fg_mode = data_pb2.FG_NONE
    config.data_config.fg_encoded_multival_sep = ";"  # as that of the one default
    schema = build_schema(config, training_labels=False)

    specified = specify(config.feature_configs, schema)

    assert {f["column"] for f in specified["sparse"]} == {f["name"] for f in specified["sparse"]}
    city = next(f for f in specified["sparse"] if f["name"] == "city")
    assert city["ids"] == {"method": "number", "below": 97}
    assert all(feature["normalizer"] is None for feature in specified["dense"])
