import pytest

from tests.tzrec_core.features.parsing import parse_schema
from tzrec_core.features.schema import BatchSchema

CONFIG = """
data_config { fg_mode: FG_NORMAL label_fields: "y" sample_weight_fields: "w" }
feature_configs { id_feature {
  feature_name: "a" expression: "user:x" num_buckets: 5 embedding_dim: 4 } }
feature_configs { raw_feature { feature_name: "b" expression: "user:x" value_dim: 3 } }
feature_configs { id_feature {
  feature_name: "c" expression: "user:z" num_buckets: 5 embedding_dim: 4 weighted: true } }
feature_configs { raw_feature { feature_name: "d" expression: "user:v" } }
model_config {
  metrics { grouped_auc { grouping_key: "c" } }
  metrics { grouped_auc { grouping_key: "g" } }
}
"""


def test_features_are_dense_sparse_or_weighted_in_config_order():
    schema = parse_schema(CONFIG)

    assert [f.name for f in schema.dense_features] == ["b", "d"]
    assert [f.name for f in schema.sparse_features] == ["a"]
    assert [f.name for f in schema.weighted_features] == ["c"]
    assert schema.width == 4


def test_each_needed_column_is_read_once():
    columns = parse_schema(CONFIG).raw_columns({"x", "z", "v", "y", "w", "g", "unused"})

    assert sorted(columns) == ["g", "v", "w", "x", "y", "z"]


def test_encoded_ids_of_a_grouping_key_are_read_in_place_of_it():
    columns = parse_schema(CONFIG).raw_columns({"x", "z", "v", "y", "w", "g@id", "c@id"})

    assert sorted(columns) == ["c@id", "g@id", "v", "w", "x", "y", "z"]


def test_an_encoded_cost_is_read_in_place_of_the_column():
    schema = BatchSchema((), sample_cost="n")

    assert schema.raw_columns(["n"]) == ("n",)
    assert schema.raw_columns(["n", "n@cost"]) == ("n@cost",)


def test_scoring_needs_only_the_columns_of_features():
    schema = parse_schema(CONFIG, training_labels=False)

    assert sorted(schema.raw_columns(["x", "z", "v"])) == ["v", "x", "z"]
    assert (schema.labels, schema.sample_weights, schema.group_keys) == ((), (), {})


def test_a_missing_column_is_named_with_the_first_feature_that_needs_it():
    with pytest.raises(ValueError, match=r"'x', needed as feature 'a', .* its columns are none"):
        parse_schema(CONFIG).raw_columns([])
