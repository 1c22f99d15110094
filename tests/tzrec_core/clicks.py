"""Small click logs and a config for them, for tests that train for real."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

NUM_USERS = 40
NUM_ITEMS = 200

CONFIG = """
train_input_path: "{folder}/train.parquet"
eval_input_path: "{folder}/eval.parquet"
model_dir: "{folder}/model"
train_config {{
  sparse_optimizer {{ adagrad_optimizer {{ lr: 0.1 }} constant_learning_rate {{}} }}
  dense_optimizer {{ sgd_optimizer {{ lr: 0.1 }} constant_learning_rate {{}} }}
  num_epochs: 2
  save_checkpoints_steps: 1000
  log_step_count_steps: 10
  use_tensorboard: false
}}
data_config {{
  batch_size: 64
  dataset_type: ParquetDataset
  fg_mode: FG_DAG
  label_fields: "click"
  num_workers: 0
}}
feature_configs {{ id_feature {{
  feature_name: "user" expression: "user:user_id" num_buckets: {num_users} embedding_dim: 8 }} }}
feature_configs {{ id_feature {{
  feature_name: "item" expression: "item:item" hash_bucket_size: 500 embedding_dim: 8 }} }}
feature_configs {{ id_feature {{
  feature_name: "tags" expression: "item:tags" num_buckets: 7 embedding_dim: 8 pooling: "mean" }} }}
feature_configs {{ id_feature {{
  feature_name: "history" expression: "user:history" num_buckets: 20 embedding_dim: 8
  weighted: true pooling: "mean" }} }}
feature_configs {{ raw_feature {{ feature_name: "price" expression: "item:price" }} }}
model_config {{
  feature_groups {{
    group_name: "wide" feature_names: ["user", "item", "history"] group_type: WIDE }}
  feature_groups {{
    group_name: "deep" feature_names: ["user", "item", "tags", "history", "price"]
    group_type: DEEP }}
  deepfm {{ deep {{ hidden_units: [16, 8] }} }}
  losses {{ binary_cross_entropy {{}} }}
  metrics {{ auc {{ thresholds: 0 }} }}
  metrics {{ grouped_auc {{ grouping_key: "user_id" }} }}
  metrics {{ xauc {{}} label_name: "watch" }}
  train_metrics {{ auc {{}} decay_rate: 0.9 decay_step: 10 }}
}}
"""


def write(folder: Path, *, train_rows: int, eval_rows: int = 150, group_rows: int = 64) -> str:
    """Writes train and eval files in row groups of ``group_rows``; returns a config's text."""
    rng = np.random.default_rng(0)
    user_bias, item_bias = rng.normal(size=NUM_USERS), rng.normal(size=NUM_ITEMS)
    for name, rows in (("train", train_rows), ("eval", eval_rows)):
        user, item = rng.integers(0, NUM_USERS, rows), rng.integers(0, NUM_ITEMS, rows)
        price = rng.normal(size=rows)
        utility = user_bias[user] + item_bias[item] + price
        table = pa.table(
            {
                "row": np.arange(rows),
                "user_id": user,
                "item": [f"item {i}" for i in item],
                "tags": [[int(i) % 7, int(i) % 3] if i % 5 else [] for i in item],
                "history": [f"{u % 20}:0.5\x1d{(u + 1) % 20}:2" for u in user],
                "price": price,
                "click": (rng.random(rows) < 1 / (1 + np.exp(-utility))).astype(np.int64),
                "watch": np.exp(utility + rng.normal(size=rows)),
            }
        )
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=group_rows)
    return CONFIG.format(folder=folder, num_users=NUM_USERS)
