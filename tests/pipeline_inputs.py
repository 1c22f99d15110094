"""Small click logs and a small model, for tests of whole runs."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

CONFIG = """
train_config {
  sparse_optimizer { adagrad_optimizer { lr: 0.1 } constant_learning_rate {} }
  dense_optimizer { adam_optimizer { lr: 0.01 } constant_learning_rate {} }
  num_epochs: 1
  save_checkpoints_steps: 8
  log_step_count_steps: 4
}
export_config { exporter_type: "best" best_exporter_metric: "grouped_auc" }
data_config {
  batch_size: 128
  dataset_type: ParquetDataset
  fg_mode: FG_DAG
  label_fields: "click"
}
feature_configs { raw_feature { feature_name: "age" expression: "user:age" } }
feature_configs {
  id_feature {
    feature_name: "city" expression: "user:city" hash_bucket_size: 100 embedding_dim: 4
  }
}
feature_configs {
  id_feature {
    feature_name: "user_id" expression: "user:user_id" num_buckets: 50 embedding_dim: 4
  }
}
model_config {
  feature_groups {
    group_name: "all"
    feature_names: "age" feature_names: "city" feature_names: "user_id"
    group_type: DEEP
  }
  multi_tower { towers { input: "all" mlp { hidden_units: 8 } } final { hidden_units: 8 } }
  num_class: 1
  metrics { auc {} }
  metrics { grouped_auc { grouping_key: "user_id" } }
  losses { binary_cross_entropy {} }
}
"""


def write_click_logs(path: Path, *, num_rows: int, seed: int) -> Path:
    """Writes rows whose clicks depend on all three features into a Parquet file."""
    random = np.random.default_rng(seed)
    age = random.normal(size=num_rows).astype(np.float32)
    city = random.integers(20, size=num_rows)
    user_id = random.integers(50, size=num_rows)
    logit = age + np.sin(city * 7.0) + np.cos(user_id * 3.0)
    click = random.random(num_rows) < 1 / (1 + np.exp(-2 * logit))
    columns = {
        "age": age,
        "city": pa.array([f"city {i}" for i in city]),
        "user_id": user_id,
        "click": click.astype(np.int64),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path
