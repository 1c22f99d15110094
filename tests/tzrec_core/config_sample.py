"""A small valid config that the tests of reading, editing and checking start from."""

from tzrec_core.config import loads
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

TEXT = """\
# comment
train_input_path: "data/train"
eval_input_path: "data/eval"
model_dir: "experiments/sample"
train_config {
    sparse_optimizer {
        adagrad_optimizer { lr: 0.01 }
        constant_learning_rate {}
    }
    dense_optimizer {
        adam_optimizer { lr: 0.001 }
        constant_learning_rate {}
    }
    num_epochs: 1
}
data_config {
    batch_size: 64
    dataset_type: ParquetDataset
    fg_mode: FG_NORMAL
    label_fields: "click"
}
feature_configs {
    raw_feature { feature_name: "price" expression: "item:price" }
}
feature_configs {
    id_feature {
        feature_name: "user_id"
        expression: "user:user_id"
        hash_bucket_size: 1000
        embedding_dim: 8
    }
}
feature_configs {
    id_feature {
        feature_name: "category"
        expression: "item:category"
        num_buckets: 100
        embedding_dim: 16
    }
}
feature_configs {
    id_feature {
        feature_name: "brand"
        expression: "item:brand"
        vocab_list: ["a", "b", "c"]
        embedding_dim: 16
    }
}
feature_configs {
    raw_feature {
        feature_name: "age"
        expression: "user:age"
        boundaries: [18, 30, 50]
        embedding_dim: 8
    }
}
model_config {
    feature_groups {
        group_name: "user"
        feature_names: ["user_id", "age"]
        group_type: DEEP
    }
    feature_groups {
        group_name: "item"
        feature_names: "price"
        feature_names: "category"
        feature_names: "brand"
        group_type: DEEP
    }
    multi_tower {
        towers { input: "user" mlp { hidden_units: [16, 8] } }
        towers { input: "item" mlp { hidden_units: [16, 8] } }
        final { hidden_units: 8 }
    }
    losses { binary_cross_entropy {} }
    metrics { auc {} }
    metrics { grouped_auc { grouping_key: "user_id" } }
    train_metrics { auc {} }
}
"""


def sample() -> EasyRecConfig:
    """Returns the config, fresh for every caller."""
    return loads(TEXT, source="sample.config")


def line_of(fragment: str, text: str = TEXT) -> int:
    """Returns the line, from 1, of the only occurrence of ``fragment``."""
    assert text.count(fragment) == 1
    return text[: text.index(fragment)].count("\n") + 1
