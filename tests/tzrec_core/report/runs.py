"""Run directories as evaluate leaves them, of made-up rows whose true model is known."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.special import expit
from sklearn.metrics import log_loss

from tzrec_core.config import loads
from tzrec_core.data.prepare import prepare
from tzrec_core.evaluation import results
from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.evaluation.statistics import Columns, bootstrap_key, groups_of, statistics_of
from tzrec_core.run_dir import RunDir, RunInfo, write_json
from tzrec_core.task_metrics import judged_metrics

CONFIG = """
train_input_path: "unused"
eval_input_path: "unused"
model_dir: "unused"
train_config {
  sparse_optimizer { adagrad_optimizer { lr: 0.1 } constant_learning_rate {} }
  dense_optimizer { adam_optimizer { lr: 0.001 } constant_learning_rate {} }
  num_epochs: 1
}
eval_config { slices { column: "country" } slices { column: "age" max_parts: 4 } }
export_config { exporter_type: "best" best_exporter_metric: "grouped_auc" }
data_config {
  batch_size: 64 dataset_type: ParquetDataset fg_mode: FG_DAG label_fields: ["click", "watch"]
}
feature_configs { id_feature {
  feature_name: "user" expression: "user:user_id" num_buckets: 1000000 embedding_dim: 8 } }
feature_configs { id_feature {
  feature_name: "item" expression: "item:item" hash_bucket_size: 500 embedding_dim: 8 } }
feature_configs { raw_feature { feature_name: "price" expression: "item:price" } }
feature_configs { raw_feature { feature_name: "age" expression: "user:age" } }
model_config {
  feature_groups { group_name: "wide" feature_names: ["user", "item"] group_type: WIDE }
  feature_groups { group_name: "deep" feature_names: ["user", "item", "price", "age"]
    group_type: DEEP }
  deepfm { deep { hidden_units: [16, 8] } }
  losses { LOSS {} }
  METRICS
}
"""
BINARY_METRICS = """
  metrics { auc { thresholds: 0 } }
  metrics { grouped_auc { grouping_key: "user_id" } }
  metrics { xauc {} label_name: "watch" }
  metrics { normalized_entropy {} }
  metrics { calibration {} }
"""
VALUE_METRICS = """
  metrics { mean_squared_error {} }
  metrics { xauc { exclude_tied_targets: true } }
  metrics { grouped_xauc { grouping_key: "user_id" } }
"""


def binary_config(*, metrics=BINARY_METRICS):
    text = CONFIG.replace("LOSS", "binary_cross_entropy").replace("METRICS", metrics)
    return loads(text, source="test")


def value_config():
    text = CONFIG.replace("LOSS", "l2_loss").replace("METRICS", VALUE_METRICS)
    text = text.replace('label_fields: ["click", "watch"]', 'label_fields: "watch"')
    text = text.replace('best_exporter_metric: "grouped_auc"', 'best_exporter_metric: "xauc"')
    return loads(text, source="test")


def raw_rows(num_rows, *, num_users, seed=0, price=0.0):
    """Rows of users in proportion to a log-normal activity, and the log odds of a click."""
    rng = np.random.default_rng(seed)
    activity = np.exp(np.random.default_rng(1).normal(size=num_users))
    user = rng.choice(num_users, num_rows, p=activity / activity.sum())
    table = {
        "user_id": user,
        "item": [f"item {i}" for i in rng.zipf(1.4, num_rows) % 200],
        "price": rng.normal(price, size=num_rows),
        "age": 18 + (user * 7919) % 60,
        "country": np.array(["DE", "FR", "IT", "PL"])[user % 4],
    }
    taste = np.random.default_rng(2).normal(size=num_users)
    utility = -1.2 + 0.8 * taste[user] + table["price"] - 0.02 * (table["age"] - 45)
    table["click"] = (rng.random(num_rows) < expit(utility)).astype(np.int64)
    table["watch"] = np.where(table["click"] > 0, np.exp(utility + rng.normal(size=num_rows)), 0.0)
    return pa.table(table), utility


def predictions(rows, utility, *, noise, seed=0, is_value=False):
    """The scores of a model that sees the true log odds through ``noise``."""
    rng = np.random.default_rng(seed)
    scores = expit((utility + noise * rng.normal(size=len(utility))) / (1 + 0.3 * noise))
    columns = {
        "@row": np.arange(len(utility)),
        "click": rows["click"],
        "watch": pa.chunked_array([rows["watch"].to_numpy().astype(np.float32)]),
        "user_id@id": rows["user_id"],
        "country@slice": rows["country"],
        "age@slice": rows["age"],
        "y" if is_value else "probs": scores.astype(np.float32),
    }
    return pa.table(columns)


def found(config, table, *, step, losses=None):
    """The results that evaluate would write."""
    scored = Predictions(table.drop_columns(["@row"]).combine_chunks(), 1.0)
    columns, key = Columns(scored), bootstrap_key(config)
    values = {}
    for judged in judged_metrics(config):
        if judged.key is None:
            values[judged.name] = statistics_of(judged, columns, key=key).value
        else:
            sums = groups_of(judged, columns).add_up()
            values[judged.name] = sums.value
            values[f"{judged.name}_group_coverage"] = sums.group_coverage
            values[f"{judged.name}_row_coverage"] = sums.row_coverage
    if losses is not None:
        values |= losses
    elif "probs" in table.column_names:
        values["binary_cross_entropy"] = log_loss(table["click"], table["probs"], labels=[0, 1])
    else:
        errors = table["y"].to_numpy() - table["watch"].to_numpy()
        values["l2_loss"] = float(np.square(errors).mean())
    return results.describe(config, scored, values, step=step)


def write_evaluation(place, config, tables, *, losses=None):
    """Writes the predictions and results of checkpoints, ``tables`` by step."""
    for step, table in tables.items():
        folder = place.predictions(step)
        folder.mkdir(parents=True)
        half = len(table) // 2
        pq.write_table(table.slice(half), folder / "part-00000.parquet")
        pq.write_table(table.slice(0, half), folder / "part-00001.parquet")
        write_json(place.result(step), found(config, table, step=step, losses=losses))


def write_run(
    folder,
    *,
    config=None,
    eval_rows=4000,
    num_users=300,
    noises=(1.5, 0.9, 0.6, 0.7),
    eval_price=0.4,
    seed=0,
    data=True,
    change=None,
):
    """Writes a run of as many checkpoints as there are ``noises``, the last but one chosen.

    ``change`` takes scored rows and returns others.
    """
    place = RunDir(folder)
    folder.mkdir(parents=True)
    config = config or binary_config()
    (folder / "pipeline.config").write_text(str(config))
    rows, utility = raw_rows(eval_rows, num_users=num_users, price=eval_price)
    if data:
        train, _ = raw_rows(2 * eval_rows, num_users=num_users, seed=7 + seed)
        pq.write_table(train, folder / "train.parquet")
        pq.write_table(rows, folder / "eval.parquet")
        prepared = prepare(
            config,
            train_input_path=str(folder / "train.parquet"),
            eval_input_path=str(folder / "eval.parquet"),
            output_dir=place.data,
            eval_fraction=0.1,
            split_by="rows",
            seed=0,
            progress=lambda line: None,
        )
        place.write_info(RunInfo("run", "test", str(prepared.path.relative_to(place.path))))
    is_value = "l2_loss" in str(config)
    tables = {
        100 * (index + 1): predictions(rows, utility, noise=noise, seed=seed, is_value=is_value)
        for index, noise in enumerate(noises)
    }
    if change is not None:
        tables = {step: change(table) for step, table in tables.items()}
    write_evaluation(place, config, tables)
    chosen = max(100, 100 * (len(noises) - 1))
    best = {"global_step": chosen, "checkpoint": f"model.ckpt-{chosen}", "metrics": {}}
    write_json(place.best, {**best, "reason": f"the largest of {len(noises)} checkpoints"})
    place.checkpoints.mkdir()
    lines = [
        json.dumps({"global_step": 50 * i, "auc": 0.6 + 0.02 * i - 0.001 * i * i})
        for i in range(1, 9)
    ]
    place.train_eval_result.write_text("\n".join(lines) + "\n")
    return place
