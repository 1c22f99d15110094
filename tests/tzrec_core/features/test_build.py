import pytest

from tests.tzrec_core.features.parsing import parse_feature, parse_schema
from tzrec_core.features.schema import Table
from tzrec_core.protos.feature_pb2 import FeatureConfig

ID = 'feature_name: "f" expression: "user:c" embedding_dim: 4'


@pytest.mark.parametrize("name", [f.name for f in FeatureConfig.DESCRIPTOR.fields])
def test_every_feature_in_the_schema_can_be_built(name):
    source = "num_buckets: 5 embedding_dim: 4" if name == "id_feature" else ""
    feature = parse_feature(f'{name} {{ feature_name: "f" expression: "user:c" {source} }}')

    assert feature.name == "f"


def test_the_input_column_is_the_expressions_or_in_encoded_data_the_feature_itself():
    text = f"id_feature {{ {ID} num_buckets: 5 }}"

    assert parse_feature(text).column == "c"
    assert parse_feature(text, "FG_DAG").column == "c"
    assert parse_feature(text.replace("user:", "")).column == "c"
    assert parse_feature(text, "FG_NONE").column == "f"
    no_expression = 'raw_feature { feature_name: "f" }'
    assert parse_feature(no_expression, "FG_NONE").column == "f"


def test_a_table_is_named_after_its_feature_unless_the_config_names_it():
    text = f'id_feature {{ {ID} num_buckets: 5 pooling: "MEAN" init_fn: "nn.init.zeros_" %s }}'

    expected = Table("f_emb", 5, 4, "mean", "nn.init.zeros_")
    assert parse_feature(text % "").table == expected
    assert parse_feature(text % 'embedding_name: "t"').table == Table(
        "t", 5, 4, "mean", "nn.init.zeros_"
    )
    assert parse_feature('raw_feature { feature_name: "f" expression: "user:c" }').table is None


@pytest.mark.parametrize("fg_mode", ["FG_NORMAL", "FG_NONE"])
@pytest.mark.parametrize(
    ("source", "num_rows"),
    [
        ("hash_bucket_size: 7", 7),
        ("num_buckets: 7", 7),
        ('vocab_list: ["a", "b", "c"]', 5),
        ('vocab_list: ["a", "b", "c"] default_bucketize_value: 2', 3),
        ('vocab_dict: {key: "a" value: 8} vocab_dict: {key: "b" value: 3}', 9),
        ('vocab_dict: {key: "a" value: 0} default_value: "z"', 2),
        ('vocab_dict: {key: "a" value: 0} default_bucketize_value: 0', 1),
    ],
)
def test_a_table_has_a_row_for_every_id(source, num_rows, fg_mode):
    table = parse_feature(f"id_feature {{ {ID} {source} }}", fg_mode).table

    assert table is not None
    assert table.num_embeddings == num_rows


def test_a_bucketized_feature_has_a_row_more_than_boundaries():
    table = parse_feature(f"raw_feature {{ {ID} boundaries: [0, 1, 2] }}").table

    assert table is not None
    assert table.num_embeddings == 4


def test_a_vocabulary_file_is_a_vocabulary_list(tmp_path):
    path = tmp_path / "vocab"
    path.write_text("a\nb\nc\n")
    from_file = parse_feature(f'id_feature {{ {ID} vocab_file: "{path}" }}')

    assert (
        from_file.table == parse_feature(f'id_feature {{ {ID} vocab_list: ["a", "b", "c"] }}').table
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"id_feature {{ {ID} }}", "exactly one of hash_bucket_size, .* must be set, got none"),
        (
            f"id_feature {{ {ID} num_buckets: 5 hash_bucket_size: 5 }}",
            "exactly one of .* got hash_bucket_size, num_buckets",
        ),
        (
            f"id_feature {{ {ID} num_buckets: 0 }}",
            r"num_buckets must give 1 to 2\*\*63 - 1 ids, got 0",
        ),
        (f"id_feature {{ {ID} hash_bucket_size: {2**63} }}", f"1 to .* got {2**63}"),
        (f"id_feature {{ {ID} num_buckets: 5 value_dim: 2 }}", "value_dim must be 0 or 1, got 2"),
        (
            f"id_feature {{ {ID} num_buckets: 5 value_dim: 1 weighted: true }}",
            "value_dim must be 0 of a weighted feature, got 1",
        ),
        (
            f"id_feature {{ {ID} num_buckets: 5 default_bucketize_value: 5 }}",
            "default_bucketize_value must be less than 5, the number of ids, got 5",
        ),
        (
            f'id_feature {{ {ID} num_buckets: 5 default_value: "5" }}',
            "default '5' is out of the range",
        ),
        (f'id_feature {{ {ID} num_buckets: 5 default_value: "x" }}', "integers .*, got 'x'"),
        (f'id_feature {{ {ID} num_buckets: 5 separator: "" }}', "separator must be at least one"),
        (f'id_feature {{ {ID} num_buckets: 5 pooling: "max" }}', "must be sum or mean, got 'max'"),
        (f'id_feature {{ {ID} vocab_list: ["a", "a"] }}', "the entry 'a' twice"),
        (f'id_feature {{ {ID} vocab_file: "/no/such" }}', "'/no/such' does not exist"),
        (
            'id_feature { feature_name: "f" expression: "user:c" num_buckets: 5 }',
            "embedding_dim must be at least 1, got 0",
        ),
        (
            'raw_feature { feature_name: "f" expression: "feature:c" }',
            "one of user, item, context with a colon .*, got 'feature:c'",
        ),
        ('raw_feature { feature_name: "f" expression: "user:" }', "got 'user:'"),
        ('raw_feature { feature_name: "f" }', "expression must be a column, .*, got ''"),
        (f"raw_feature {{ {ID} }}", "embedding_dim needs boundaries"),
        (
            f"raw_feature {{ {ID} boundaries: [1, 1] }}",
            r"boundaries must be ascending, got \[1.0, 1.0\]",
        ),
        (f"raw_feature {{ {ID} boundaries: [nan] }}", "boundaries must be ascending"),
        (
            'raw_feature { feature_name: "f" expression: "user:c" value_dim: 0 }',
            "value_dim must be at least 1 without boundaries",
        ),
        (
            'raw_feature { feature_name: "f" expression: "user:c" default_value: "" }',
            "the default must be numbers, got ''",
        ),
        (
            'raw_feature { feature_name: "f" expression: "user:c" default_value: "inf" }',
            "the default must be finite as float32, got 'inf'",
        ),
        (
            'raw_feature { feature_name: "f" expression: "c" value_dim: 3 default_value: "1,2" '
            'separator: "," }',
            "the default must have 1 or 3 numbers",
        ),
        (
            'raw_feature { feature_name: "f" expression: "user:c" normalizer: "log" }',
            "normalizer must be one of",
        ),
    ],
)
def test_an_ill_defined_feature_is_an_error_that_names_it(text, message):
    with pytest.raises(ValueError, match=f"feature 'f': .*{message}"):
        parse_feature(text)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("feature_configs {}", "must be one of id_feature, raw_feature, got None"),
        ("feature_configs { raw_feature {} }", "feature_name must be set"),
        (
            'feature_configs { raw_feature { feature_name: "f" } }'
            'feature_configs { raw_feature { feature_name: "f" } }',
            "feature_name 'f' is there twice",
        ),
        ("data_config { fg_mode: FG_BUCKETIZE }", "fg_mode must be FG_NONE, .*, got FG_BUCKETIZE"),
        (
            'data_config { label_fields: "f" }'
            'feature_configs { raw_feature { feature_name: "f" } }',
            "feature_name 'f' is also the name of a label",
        ),
        (
            'model_config { metrics { grouped_auc { grouping_key: "k" } } }'
            'feature_configs { raw_feature { feature_name: "k@id" } }',
            "feature_name 'k@id' is also the name of",
        ),
        (
            'data_config { sample_cost_field: "n" }'
            'feature_configs { raw_feature { feature_name: "n@cost" } }',
            "feature_name 'n@cost' is also the name of",
        ),
    ],
)
def test_an_ill_defined_schema_is_an_error(config, message):
    with pytest.raises(ValueError, match=message):
        parse_schema(config)


SHARED = """
feature_configs { id_feature {
  feature_name: "a" embedding_name: "t" num_buckets: 5 embedding_dim: 4 } }
feature_configs { id_feature { feature_name: "b" embedding_name: "t" %s } }
"""


def test_features_may_share_a_table():
    a, b = parse_schema(SHARED % "hash_bucket_size: 5 embedding_dim: 4").features

    assert a.table == b.table


@pytest.mark.parametrize(
    "other",
    [
        "num_buckets: 6 embedding_dim: 4",
        "num_buckets: 5 embedding_dim: 8",
        'num_buckets: 5 embedding_dim: 4 pooling: "mean"',
        'num_buckets: 5 embedding_dim: 4 init_fn: "nn.init.zeros_"',
    ],
)
def test_features_that_share_a_table_must_want_the_same_one(other):
    with pytest.raises(ValueError, match="'a' and 'b' have the same embedding_name"):
        parse_schema(SHARED % other)


def test_a_column_that_a_metric_judges_against_is_a_label_too():
    schema = parse_schema(
        """
        data_config { label_fields: "click" sample_weight_fields: "w" }
        model_config {
          metrics { auc {} }
          metrics { xauc {} label_name: "watch_time" }
          metrics { xauc {} label_name: "click" }
        }
        """
    )

    assert schema.labels == ("click", "watch_time")
    assert schema.sample_weights == ("w",)


def test_what_task_towers_name_is_part_of_the_batch():
    schema = parse_schema(
        """
        data_config { label_fields: "click" sample_weight_fields: "w" }
        model_config { mmoe {
          task_towers { label_name: "click" sample_weight_name: "w"
            losses { jrc_loss { session_name: "page" } }
            metrics { ndcg_at_k { grouping_key: "user" } } }
          task_towers { label_name: "buy" sample_weight_name: "w2"
            task_space_indicator_label: "seen"
            metrics { grouped_auc { grouping_key: "user" } label_name: "rating" }
            metrics { grouped_xauc { grouping_key: "item" } } }
        } }
        """
    )

    assert schema.labels == ("click", "buy", "seen", "rating")
    assert schema.sample_weights == ("w", "w2")
    assert set(schema.group_keys) == {"page", "user", "item"}


@pytest.mark.parametrize(("fg_mode", "column"), [("FG_NORMAL", "uid"), ("FG_NONE", "user")])
def test_a_grouping_key_is_a_features_column_or_a_column(fg_mode, column):
    schema = parse_schema(
        f"""
        data_config {{ fg_mode: {fg_mode} }}
        feature_configs {{ id_feature {{
          feature_name: "user" expression: "user:uid" num_buckets: 5 embedding_dim: 4 }} }}
        model_config {{
          metrics {{ grouped_auc {{ grouping_key: "user" }} }}
          metrics {{ grouped_auc {{ grouping_key: "session" }} }}
          metrics {{ grouped_xauc {{ grouping_key: "user" }} }}
          losses {{ jrc_loss {{ session_name: "page" }} }}
        }}
        """
    )

    assert schema.group_keys == {"user": column, "session": "session", "page": "page"}
