import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.tzrec_core.config_sample import sample
from tzrec_core.config import check, edit, loads
from tzrec_core.config_checks.metric import metric_names
from tzrec_core.config_checks.model import model_problems
from tzrec_core.config_checks.task import loss_names
from tzrec_core.config_fields import is_planned
from tzrec_core.protos.model_pb2 import ModelConfig
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

DEEPFM = """
feature_groups { group_name: "wide" feature_names: ["category", "brand"] group_type: WIDE }
feature_groups { group_name: "deep" feature_names: ["price", "category", "brand"] }
deepfm { deep { hidden_units: 8 } }
losses { binary_cross_entropy {} }
"""
WIDE_AND_DEEP = DEEPFM.replace("deepfm {", "wide_and_deep {")
DLRM = """
feature_groups { group_name: "dense" feature_names: "price" }
feature_groups { group_name: "sparse" feature_names: ["category", "brand"] }
dlrm { dense_mlp { hidden_units: [8, 16] } final { hidden_units: 8 } }
losses { l2_loss {} }
metrics { xauc {} }
metrics { mean_squared_error {} }
"""
SOFTMAX = DEEPFM.replace("binary_cross", "softmax_cross") + "num_class: 3 metrics { accuracy {} }"
JRC = DEEPFM.replace("binary_cross_entropy {}", 'jrc_loss { session_name: "user_id" }')
GROUP = 'feature_groups { group_name: "all" feature_names: ["age", "brand"] }'
TOWERS = """
task_towers { tower_name: "ctr" label_name: "click" losses { binary_cross_entropy {} }
  metrics { auc {} } metrics { grouped_auc { grouping_key: "user_id" } } train_metrics { auc {} } }
task_towers { tower_name: "cvr" label_name: "click" losses { l2_loss {} } mlp { hidden_units: 4 }
  metrics { xauc {} label_name: "time" } }
"""
MMOE = f"{GROUP} mmoe {{ expert_mlp {{ hidden_units: 8 }} {TOWERS} }}"
MODELS = {
    "deepfm": DEEPFM,
    "wide_and_deep": WIDE_AND_DEEP,
    "dlrm": DLRM,
    "softmax": SOFTMAX,
    "jrc": f"{JRC} num_class: 2 metrics {{ auc {{}} }}",
    "mmoe": MMOE,
    "simple_multi_task": f"{GROUP} simple_multi_task {{ {TOWERS} }}",
}


def towers(**changes):
    """Edits of the sample into a model of two towers; changes are of the second one's fields."""
    model = MMOE.replace('"cvr"', '"cvr" ' + " ".join(f"{k}: {v}" for k, v in changes.items()))
    return {"model_config": model, "data_config.label_fields": ["click", "buy"]}


def changed(edits):
    config = sample()
    edit(config, edits)
    return config


def problems(edits):
    with pytest.raises(ValueError, match=r".") as error:
        check(changed(edits))
    return str(error.value).splitlines()


def test_the_sample_is_valid():
    check(sample())


@pytest.mark.parametrize("model", MODELS.values(), ids=MODELS)
def test_models_of_every_kind_are_valid(model):
    check(changed({"model_config": model}))


ALLOWED = [
    {"train_config.num_epochs": None, "train_config.num_steps": 5},
    {"train_config.dense_optimizer.adam_optimizer.lr": 0},
    {"train_config.sparse_optimizer.constant_learning_rate": None},
    {"train_config.save_checkpoints_steps": 0},
    {"data_config.fg_mode": "FG_NONE", "feature_configs[:].id_feature.expression": None},
    {"feature_configs[2].id_feature.default_bucketize_value": 99},
    {
        "feature_configs[2:4].id_feature.embedding_name": "shared",
        "feature_configs[3].id_feature.vocab_list": None,
        "feature_configs[3].id_feature.num_buckets": 100,
    },
    {"feature_configs[3].id_feature.pooling": "MEAN"},
    {
        "feature_configs[1].id_feature.feature_name": "uid",
        "model_config.feature_groups[0].feature_names[0]": "uid",
    },  # grouping_key user_id is then a raw column
    {
        "data_config.label_fields": ["click", "like"],
        "model_config.metrics[0].label_name": "like",
    },
    {"data_config.sample_weight_fields": "weight"},
    {"model_config.metrics[0].auc.thresholds": 0},
    {
        "model_config.metrics": "[{xauc { max_pairs: 9 }}, {log_loss {}}, {normalized_entropy {}},"
        "{calibration {}}, {calibration_error {}}, {mean_squared_error {}}, {accuracy {}},"
        '{grouped_auc { grouping_key: "age" weighting: "rows" }},'
        '{grouped_xauc { grouping_key: "age" max_pairs_per_group: 9 seed: 3 }},'
        '{ndcg_at_k { grouping_key: "age" top_k: 5 }}, {ndcg_at_k { grouping_key: "age" }}]',
        "model_config.train_metrics": "[{auc {}}, {accuracy {}}, {mean_absolute_error {}},"
        "{mean_squared_error {}}, {xauc { in_batch: true weight_batches_equally: true }}]",
    },
    {
        "model_config": SOFTMAX + "metrics { recall_at_k { top_k: 2 } } metrics { log_loss {} }"
        "metrics { multiclass_auc {} } metrics { multiclass_auc { thresholds: 0 } label_name: 'c' }"
        "metrics { normalized_entropy {} } metrics { accuracy { top_k: 2 } }"
        "train_metrics { recall_at_k { top_k: 1 } } train_metrics { recall_at_k { top_k: 2 } }"
    },
    {
        "model_config": DLRM + "metrics { mean_absolute_error {} } metrics { calibration {} }"
        "train_metrics { xauc { sample_ratio: 0.1 seed: 3 } }"
        "train_metrics { mean_squared_error {} }"
    },
    {"model_config": DLRM + "metrics { auc { thresholds: 0 } }"},
    {"model_config.feature_groups[1].feature_names": ["category"]},  # not all features used
    {"export_config": 'exporter_type: "best" best_exporter_metric: "binary_cross_entropy"'},
    {"export_config": 'exporter_type: "best" best_exporter_metric: "grouped_auc"'},
    {"model_config.multi_tower.towers[0].mlp.dropout_ratio": [0.1]},
    {"model_config.multi_tower.towers[0].mlp.dropout_ratio": [0.1, 0]},
    {"model_config.multi_tower.towers[0].mlp": None},
    {"data_config.dataset_type": "CsvDataset", "data_config.with_header": True},
    {"data_config.delimiter": "\t"},
    {"data_config.sample_cost_field": "tokens", "data_config.batch_cost_size": 100},
    {"model_config.losses": "binary_focal_loss { gamma: 0 alpha: 0.9 }"},
    {"model_config.losses": "[{binary_focal_loss {}}, {binary_cross_entropy {}}]"},
    towers(weight=0),
    {**towers(sample_weight_name='"w"'), "data_config.sample_weight_fields": "w"},
    {
        **towers(sample_weight_name='"w"'),
        "data_config.sample_weight_fields": ["v", "w"],
        "model_config.mmoe.task_towers[0].sample_weight_name": "v",
    },
    towers(task_space_indicator_label='"buy"', out_task_space_weight=0),
    {**towers(pareto_min_loss_weight=1), "model_config.use_pareto_loss_weight": True},
    {**towers(), "export_config": 'exporter_type: "best" best_exporter_metric: "auc_ctr"'},
    {**towers(), "export_config": 'exporter_type: "best" best_exporter_metric: "l2_loss_cvr"'},
]


@pytest.mark.parametrize("edits", ALLOWED, ids=str)
def test_what_is_allowed_passes(edits):
    check(changed(edits))


ID = "feature_configs[1].id_feature."
RAW = "feature_configs[4].raw_feature."
MLP = "model_config.multi_tower.final."
ADAM = "train_config.dense_optimizer.adam_optimizer."

# Edits of the valid sample, and the one line of complaint that each must cause.
CASES = [
    # How long, and what to write
    (
        {"train_config.num_epochs": None},
        "train_config.num_steps and train_config.num_epochs: neither is set; exactly one of them",
    ),
    (
        {"train_config.num_steps": 7},
        "train_config.num_steps and train_config.num_epochs: 7 and 1 are set; exactly one of them",
    ),
    ({"train_config.num_epochs": 0}, "train_config.num_epochs is 0; must be > 0, or left out"),
    (
        {"train_config.log_step_count_steps": 0, "model_config.train_metrics": None},
        "train_config.log_step_count_steps is 0; must be > 0",
    ),
    (
        {"model_config.train_metrics[0].decay_step": 30},
        "model_config.train_metrics[0].decay_step is 30; must divide "
        "train_config.log_step_count_steps, which is 100",
    ),
    (
        {"model_config.train_metrics[0].decay_step": 0},
        "model_config.train_metrics[0].decay_step is 0; must be > 0",
    ),
    (
        {"model_config.train_metrics[0].decay_rate": 1},
        "model_config.train_metrics[0].decay_rate is 1; must be in [0, 1)",
    ),
    ({"eval_config.num_steps": 0}, "eval_config.num_steps is 0; must be > 0, or left out"),
    ({"eval_config.log_step_count_steps": 0}, "eval_config.log_step_count_steps is 0; must be > 0"),
    ({"eval_config.confidence_level": 1}, "eval_config.confidence_level is 1; must be in (0, 1)"),
    ({"eval_config.slices": [{}]}, "eval_config.slices[0].column is not set"),
    (
        {"eval_config.slices": [{"column": "age", "max_parts": 0}]},
        "eval_config.slices[0].max_parts is 0; must be > 0",
    ),
    (
        {"eval_config.slices": [{"column": "age", "boundaries": [3, 2]}]},
        "eval_config.slices[0].boundaries is [3.0, 2.0]; must be finite numbers in ascending order",
    ),
    (
        {"eval_config.slices": [{"column": "age"}, {"column": "age"}]},
        "eval_config.slices has column 'age' 2 times; columns must differ",
    ),
    (
        {"export_config.near_ties": "latest"},
        "export_config.near_ties is 'latest'; supported: earliest, metric, best",
    ),
    (
        {"export_config.near_ties": "metric", "export_config.tie_break_metric": "acu"},
        "export_config.tie_break_metric is 'acu'; the config's metrics and losses are: ",
    ),
    (
        {"export_config.tie_break_metric": "auc"},
        "export_config.tie_break_metric is set; needs near_ties: metric",
    ),
    (
        {"export_config.gate": [{"metric": "acu"}]},
        "export_config.gate[0].metric is 'acu'; the config's metrics that two models can be"
        " compared by are: auc, grouped_auc",
    ),
    (
        {"export_config.gate": [{"metric": "binary_cross_entropy"}]},
        "export_config.gate[0].metric is 'binary_cross_entropy'; the config's metrics that two",
    ),
    (
        {"export_config.gate": [{"metric": "auc", "min_slice_share": 0.1}]},
        "export_config.gate[0].min_slice_share is set; needs eval_config.slices",
    ),
    (
        {"export_config.gate": [{"metric": "auc", "max_loss": -1}]},
        "export_config.gate[0].max_loss is -1; must be finite and >= 0",
    ),
    (
        {
            "export_config.gate": [{"metric": "auc", "min_slice_share": 2}],
            "eval_config.slices": [{"column": "age"}],
        },
        "export_config.gate[0].min_slice_share is 2; must be in [0, 1]",
    ),
    (
        {"export_config.mixed_precision": "BF16"},
        "export_config.mixed_precision is not supported yet",
    ),
    # Optimizers
    (
        {"train_config.sparse_optimizer": None},
        "train_config.sparse_optimizer has no optimizer; must have one, for example adagrad",
    ),
    (
        {"train_config.dense_optimizer": "constant_learning_rate {}"},
        "train_config.dense_optimizer has no optimizer; must have one",
    ),
    ({ADAM + "lr": -0.1}, ADAM + "lr is -0.1; must be finite and >= 0 (0 freezes)"),
    ({ADAM + "lr": "inf"}, ADAM + "lr is inf; must be finite and >= 0"),
    ({ADAM + "beta1": 1}, ADAM + "beta1 is 1; must be in [0, 1)"),
    ({ADAM + "beta2": -0.5}, ADAM + "beta2 is -0.5; must be in [0, 1)"),
    ({ADAM + "eps": 0}, ADAM + "eps is 0; must be finite and > 0"),
    ({ADAM + "weight_decay": -1}, ADAM + "weight_decay is -1; must be finite and >= 0"),
    (
        {"train_config.dense_optimizer": "sgd_optimizer { momentum: 1 }"},
        "train_config.dense_optimizer.sgd_optimizer.momentum is 1; must be in [0, 1)",
    ),
    (
        {"train_config.dense_optimizer": "sgd_optimizer { dampening: 2 }"},
        "train_config.dense_optimizer.sgd_optimizer.dampening is 2; must be in [0, 1]",
    ),
    (
        {"train_config.dense_optimizer": "sgd_optimizer { nesterov: true momentum: 0 }"},
        "train_config.dense_optimizer.sgd_optimizer.nesterov is true; needs momentum > 0",
    ),
    (
        {"train_config.dense_optimizer": "rmsprop_optimizer { alpha: 1 }"},
        "train_config.dense_optimizer.rmsprop_optimizer.alpha is 1; must be in [0, 1)",
    ),
    (
        {"train_config.dense_optimizer": "adadelta_optimizer { rho: 1.5 }"},
        "train_config.dense_optimizer.adadelta_optimizer.rho is 1.5; must be in [0, 1]",
    ),
    (
        {"train_config.sparse_optimizer.adagrad_optimizer.max_gradient": 0},
        "train_config.sparse_optimizer.adagrad_optimizer.max_gradient is 0; must be finite and > 0",
    ),
    (
        {"train_config.sparse_optimizer.adagrad_optimizer.initial_accumulator_value": -1},
        "train_config.sparse_optimizer.adagrad_optimizer.initial_accumulator_value is -1; must be",
    ),
    # Data
    ({"data_config.batch_size": 0}, "data_config.batch_size is 0; must be > 0"),
    ({"data_config.eval_batch_size": 0}, "data_config.eval_batch_size is 0; must be > 0, or left"),
    (
        {"data_config.shuffle": True, "data_config.shuffle_buffer_size": 0},
        "data_config.shuffle_buffer_size is 0; must be > 0 when shuffle is true",
    ),
    (
        {"data_config.dataset_type": None},
        "data_config.dataset_type is OdpsDataset; supported: ParquetDataset, CsvDataset",
    ),
    (
        {"data_config.dataset_type": "KafkaDataset"},
        "data_config.dataset_type is KafkaDataset; supported: ParquetDataset, CsvDataset",
    ),
    (
        {"data_config.dataset_type": "CsvDataset"},
        "data_config.input_fields is empty; must name the columns of CSV data, unless with_header",
    ),
    ({"data_config.delimiter": ",,"}, "data_config.delimiter is ',,'; must be one ASCII character"),
    ({"data_config.delimiter": "ö"}, "data_config.delimiter is 'ö'; must be one ASCII character"),
    (
        {"data_config.fg_encoded_multival_sep": ""},
        "data_config.fg_encoded_multival_sep is ''; must be at least one character",
    ),
    (
        {"data_config.fg_mode": "FG_BUCKETIZE"},
        "data_config.fg_mode is FG_BUCKETIZE; supported: FG_NONE (encoded data), FG_NORMAL",
    ),
    (
        {"data_config.fg_encoded": False},
        "data_config.fg_encoded is an old name; set data_config.fg_mode instead",
    ),
    (
        {"data_config.sample_cost_field": "tokens"},
        "data_config.batch_cost_size is 0; must be > 0 with sample_cost_field",
    ),
    (
        {"data_config.batch_cost_size": 100},
        "data_config.batch_cost_size is set; needs data_config.sample_cost_field",
    ),
    ({"data_config.label_fields": None}, "data_config.label_fields is empty; must name the label"),
    (
        {"data_config.label_fields": ["click", "click"]},
        "data_config.label_fields has 'click' 2 times; names must differ",
    ),
    (
        {"data_config.label_fields": ["click", ""]},
        "data_config.label_fields has an entry without a",
    ),
    (
        {"data_config.sample_weight_fields": ["a", "b"]},
        "data_config.sample_weight_fields is ['a', 'b']; a model with one task takes at most one",
    ),
    (
        {"data_config.input_fields": '[{input_name: "a"}, {input_name: "a"}]'},
        "data_config.input_fields has 'a' 2 times; names must differ",
    ),
    # Features
    (
        {"feature_configs": None, "model_config.feature_groups[:].feature_names": ["x"]},
        "feature_configs is empty; must have at least one feature",
    ),
    (
        {"feature_configs[2]": "{}"},
        "feature_configs[2] has no feature; must have id_feature or raw",
    ),
    (
        {ID + "feature_name": "age", "model_config.feature_groups[0].feature_names": ["age"]},
        RAW + "feature_name is 'age', as in feature_configs[1].id_feature; names must differ",
    ),
    (
        {ID + "feature_name": None, "model_config.feature_groups[0].feature_names": ["age"]},
        ID + "feature_name is not set",
    ),
    (
        {ID + "feature_name": "a.b", "model_config.feature_groups[0].feature_names": ["a.b"]},
        ID + "feature_name is 'a.b'; must not have a dot",
    ),
    ({ID + "embedding_name": "a.b"}, ID + "embedding_name is 'a.b'; must not have a dot"),
    (
        {"data_config.label_fields": "age", RAW + "expression": "user:years"},
        RAW + "feature_name is 'age', which is also a label (data_config.label_fields)",
    ),
    (
        {"data_config.sample_weight_fields": "age"},
        RAW + "feature_name is 'age', which is also a sample weight",
    ),
    (
        {"model_config.metrics[0].label_name": "age"},
        RAW + "feature_name is 'age', which is also model_config.metrics[0].label_name",
    ),
    (
        {RAW + "expression": "user:click"},
        RAW + "expression is 'user:click'; the label must not be an input (feature age)",
    ),
    ({RAW + "expression": None}, RAW + "expression is ''; must be the column, like 'user:age'"),
    ({RAW + "expression": "user:"}, RAW + "expression is 'user:'; must be the column"),
    (
        {RAW + "expression": "feature:x"},
        RAW + "expression is 'feature:x'; what stands before the column must be one of user, item",
    ),
    ({RAW + "data_type": "FP16"}, RAW + "data_type is 'FP16'; supported: FP32 (feature age)"),
    ({RAW + "pooling": "max"}, RAW + "pooling is 'max'; supported: sum, mean (feature age)"),
    ({RAW + "separator": ""}, RAW + "separator is ''; must be at least one character"),
    ({RAW + "embedding_dim": 6}, RAW + "embedding_dim is 6; must be a multiple of 4, above 0"),
    ({ID + "embedding_dim": None}, ID + "embedding_dim is 0; must be a multiple of 4, above 0"),
    (
        {ID + "hash_bucket_size": None},
        ID + "nothing is set; must be exactly one of hash_bucket_size, num_buckets, vocab_list, "
        "vocab_dict, vocab_file (feature user_id)",
    ),
    (
        {ID + "vocab_list": ["a"]},
        ID + "hash_bucket_size and vocab_list is set; must be exactly one of",
    ),
    ({ID + "hash_bucket_size": 0}, ID + "hash_bucket_size is 0; must be > 0"),
    (
        {"feature_configs[2].id_feature.num_buckets": 0},
        "feature_configs[2].id_feature.num_buckets is 0; must be > 0 (feature category)",
    ),
    (
        {"feature_configs[3].id_feature.vocab_list": ["a", "b", "a"]},
        "feature_configs[3].id_feature.vocab_list has a more than once; entries must differ",
    ),
    (
        {
            "feature_configs[3].id_feature.vocab_list": None,
            "feature_configs[3].id_feature.vocab_dict": {"a": 1, "b": 2},
        },
        "feature_configs[3].id_feature.vocab_dict[a] is 1; must be >= 2 unless default_bucketize",
    ),
    (
        {ID + "default_bucketize_value": 1},
        ID + "default_bucketize_value is 1; has no meaning with hash_bucket_size",
    ),
    (
        {"feature_configs[2].id_feature.default_bucketize_value": 100},
        "feature_configs[2].id_feature.default_bucketize_value is 100; must be < 100, the number",
    ),
    (
        {"feature_configs[3].id_feature.default_bucketize_value": 3},
        "feature_configs[3].id_feature.default_bucketize_value is 3; must be < 3, the number",
    ),
    ({RAW + "boundaries": [1, 3, 2]}, RAW + "boundaries is [1.0, 3.0, 2.0]; must ascend"),
    ({RAW + "boundaries": [1, 1]}, RAW + "boundaries is [1.0, 1.0]; must ascend"),
    ({RAW + "boundaries": [1, "inf"]}, RAW + "boundaries is [1.0, inf]; must be finite"),
    (
        {"feature_configs[0].raw_feature.embedding_dim": 8},
        "feature_configs[0].raw_feature.embedding_dim is 8; needs boundaries (feature price)",
    ),
    (
        {"feature_configs[0].raw_feature.value_dim": 0},
        "feature_configs[0].raw_feature.value_dim is 0; must be > 0 without boundaries",
    ),
    # Shared tables
    (
        {"feature_configs[2].id_feature.embedding_name": "brand_emb"},
        "feature_configs[3].id_feature.embedding_name: the table has 5 rows, 100 in "
        "feature_configs[2].id_feature (feature category), but both use the table 'brand_emb' "
        "(feature brand)",
    ),
    (
        {"feature_configs[1:3].id_feature.embedding_name": "t", ID + "hash_bucket_size": 100},
        "feature_configs[2].id_feature.embedding_dim is 16, 8 in feature_configs[1].id_feature "
        "(feature user_id), but both use the table 't' (feature category)",
    ),
    (
        {
            "feature_configs[2:4].id_feature.embedding_name": "t",
            "feature_configs[2].id_feature.num_buckets": 5,
            "feature_configs[2].id_feature.pooling": "mean",
        },
        "feature_configs[3].id_feature.pooling is 'sum', 'mean' in feature_configs[2].id_feature",
    ),
    # Feature groups
    (
        {"model_config.feature_groups[0].feature_names[0]": "uid"},
        "model_config.feature_groups[0].feature_names has 'uid'; the features are: age, brand, "
        "category, price, user_id",
    ),
    (
        {"model_config.feature_groups[0].feature_names": ["age", "age"]},
        "model_config.feature_groups[0].feature_names has 'age' 2 times (group user)",
    ),
    (
        {"model_config.feature_groups[0].feature_names": None},
        "model_config.feature_groups[0].feature_names is empty (group user)",
    ),
    (
        {"model_config.feature_groups[0].group_type": "WIDE"},
        "model_config.feature_groups[0].group_type is WIDE; must be DEEP for group 'user'",
    ),
    (
        {"model_config": DEEPFM.replace("WIDE", "DEEP")},
        "model_config.feature_groups[0].group_type is DEEP; must be WIDE for group 'wide'",
    ),
    (
        {"model_config": DEEPFM + 'feature_groups { group_name: "x" feature_names: "age" }'},
        "model_config.feature_groups[2].group_name is 'x'; deepfm uses the groups wide, deep, fm",
    ),
    (
        {"model_config": DEEPFM + 'feature_groups { group_name: "deep" feature_names: "age" }'},
        "model_config.feature_groups[2].group_name is 'deep', as in an earlier group; names must",
    ),
    (
        {"model_config.multi_tower.towers[:].input": "user"},
        "model_config.multi_tower.towers[1].input is 'user', as in an earlier tower",
        "model_config.feature_groups[1].group_name is 'item'; multi_tower uses the groups user",
    ),
    # Networks
    (
        {"model_config": "losses { l2_loss {} }"},
        "model_config has no model; must have one of deepfm",
    ),
    (
        {"model_config.multi_tower.towers": None, "model_config.feature_groups": None},
        "model_config.multi_tower.towers is empty; must have at least one tower",
    ),
    ({MLP + "hidden_units": None}, MLP + "hidden_units is []; must be sizes > 0, at least one"),
    ({MLP + "hidden_units": [8, 0]}, MLP + "hidden_units is [8, 0]; must be sizes > 0"),
    (
        {"model_config.multi_tower.final": None},
        "model_config.multi_tower.final.hidden_units is []; must be sizes > 0",
    ),
    (
        {"model_config": DEEPFM.replace("deep { hidden_units: 8 }", "")},
        "model_config.deepfm.deep.hidden_units is []; must be sizes > 0",
    ),
    (
        {MLP + "hidden_units": [8, 8, 8], MLP + "dropout_ratio": [0.1, 0.2]},
        MLP + "dropout_ratio has 2 entries; must have none, one, or one for each of the 3 hidden",
    ),
    ({MLP + "dropout_ratio": [1]}, MLP + "dropout_ratio is [1.0]; must be in [0, 1)"),
    ({MLP + "use_bn": 1, MLP + "use_ln": 1}, MLP + "use_bn and " + MLP + "use_ln are both true"),
    (
        {"model_config": DEEPFM.replace("deepfm {", "deepfm { wide_embedding_dim: 3")},
        "model_config.deepfm.wide_embedding_dim is 3; must be a multiple of 4, above 0",
    ),
    (
        {"model_config": DEEPFM, "feature_configs[2].id_feature.embedding_dim": 8},
        "group 'deep' has features of embedding_dim [8, 16]; deepfm needs one size",
    ),
    (
        {"model_config": DEEPFM + 'feature_groups { group_name: "fm" feature_names: "price" }'},
        "group 'fm' has ['price'], which have no embeddings; deepfm needs them there",
    ),
    (
        {"model_config": DEEPFM.replace('["price", "category", "brand"]', '"price"')},
        "group 'deep' has no feature with an embedding; deepfm needs at least one",
    ),
    (
        {"model_config": DLRM, "feature_configs[2].id_feature.embedding_dim": 8},
        "group 'sparse' has features of embedding_dim [8, 16]; dlrm needs one size",
    ),
    (
        {"model_config": DLRM.replace("[8, 16]", "[16, 8]")},
        "model_config.dlrm.dense_mlp.hidden_units ends in 8; must end in the embedding_dim of the "
        "features of group 'sparse', which is 16",
    ),
    (
        {"model_config": DLRM.replace("dense_mlp { hidden_units: [8, 16] }", "")},
        "model_config.dlrm.dense_mlp.hidden_units is []; must be sizes > 0",
    ),
    (
        {"model_config": DLRM.replace('group_name: "dense"', 'group_name: "Dense"')},
        "model_config.dlrm.dense_mlp is set; needs a feature group 'dense'",
        "model_config.feature_groups[0].group_name is 'Dense'; dlrm uses the groups sparse, dense",
    ),
    # Losses
    ({"model_config.losses": None}, "model_config.losses is empty; must have at least one"),
    ({"model_config.losses[0]": "{}"}, "model_config.losses[0] has no loss"),
    (
        {"model_config.losses": "[{binary_cross_entropy {}}, {binary_cross_entropy {}}]"},
        "model_config.losses[1] is binary_cross_entropy, as an earlier loss; each may be given onc",
    ),
    (
        {"model_config.num_class": 2},
        "model_config.num_class is 2; must be 1 for model_config.losses[0].binary_cross_entropy",
    ),
    (
        {"model_config.losses": "softmax_cross_entropy {}"},
        "model_config.num_class is 1; must be > 1 for model_config.losses[0].softmax_cross_entropy",
    ),
    (
        {"model_config": DLRM + "num_class: 2"},
        "model_config.num_class is 2; must be 1 for model_co",
    ),
    ({"model_config.num_class": 0}, "model_config.num_class is 0; must be > 0"),
    (
        {"model_config.losses[0].binary_cross_entropy.label_smoothing": 1},
        "model_config.losses[0].binary_cross_entropy.label_smoothing is 1; must be in [0, 1)",
    ),
    (
        {"model_config.losses": "binary_focal_loss {}", "model_config.num_class": 2},
        "model_config.num_class is 2; must be 1 for model_config.losses[0].binary_focal_loss",
    ),
    (
        {"model_config.losses": "binary_focal_loss { gamma: -1 }"},
        "model_config.losses[0].binary_focal_loss.gamma is -1; must be finite and >= 0",
    ),
    (
        {"model_config.losses": "binary_focal_loss { alpha: 1 }"},
        "model_config.losses[0].binary_focal_loss.alpha is 1; must be in (0, 1)",
    ),
    (
        {"model_config": JRC},
        "model_config.num_class is 1; must be 2 for model_config.losses[0].jrc_loss",
    ),
    (
        {"model_config": JRC.replace("session_name", "alpha: 2 session_name") + "num_class: 2"},
        "model_config.losses[0].jrc_loss.alpha is 2; must be in [0, 1]",
    ),
    (
        {"model_config": JRC.replace("user_id", "") + "num_class: 2"},
        "model_config.losses[0].jrc_loss.session_name is not set; must name a feature or a column",
    ),
    # Metrics
    ({"model_config.metrics[0]": "{}"}, "model_config.metrics[0] has no metric"),
    ({"model_config.train_metrics[0]": "{}"}, "model_config.train_metrics[0] has no metric"),
    (
        {"model_config.metrics[1].grouped_auc.grouping_key": None},
        "model_config.metrics[1].grouped_auc.grouping_key is not set; must name a feature or a col",
    ),
    (
        {"model_config.metrics[1]": "grouped_xauc {}"},
        "model_config.metrics[1].grouped_xauc.grouping_key is not set; must name a feature or a co",
    ),
    (
        {"model_config.metrics[0].auc.thresholds": 1},
        "model_config.metrics[0].auc.thresholds is 1; must be > 1, or 0 for the exact value",
    ),
    (
        {"model_config.train_metrics[0].auc.thresholds": 0},
        "model_config.train_metrics[0].auc.thresholds is 0; must be > 1",
    ),
    (
        {"model_config.metrics[0]": "accuracy { threshold: 1.5 }"},
        "model_config.metrics[0].accuracy.threshold is 1.5; must be in [0, 1]",
    ),
    ({"model_config.metrics[0].label_name": ""}, "model_config.metrics[0].label_name is ''"),
    (
        {"model_config.metrics": "[{auc {}}, {auc { thresholds: 10 }}]"},
        "model_config.metrics has auc 2 times; further ones of a kind must differ in label_name or",
    ),
    (
        {"model_config.train_metrics": "[{auc {}}, {auc {}}]"},
        "model_config.train_metrics has auc 2 times; must have each once",
    ),
    (
        {"model_config.metrics[0]": "multiclass_auc { average: 'micro' }"},
        "model_config.metrics[0].multiclass_auc.average is 'micro'; must be macro or weighted",
        "model_config.metrics[0].multiclass_auc needs several classes; num_class is 1, must be > 1",
    ),
    (
        {"model_config.metrics[1].grouped_auc.weighting": "users"},
        "model_config.metrics[1].grouped_auc.weighting is 'users'; must be groups, rows or positi",
    ),
    (
        {"model_config.metrics[0]": "accuracy { top_k: 2 }"},
        "model_config.metrics[0].accuracy.top_k is 2; must be 1 as num_class is 1",
    ),
    (
        {"model_config.metrics[0]": "log_loss { eta: 0 }"},
        "model_config.metrics[0].log_loss.eta is 0; must be in (0, 0.5)",
    ),
    (
        {"model_config.metrics[0]": "normalized_entropy { eta: 0.5 }"},
        "model_config.metrics[0].normalized_entropy.eta is 0.5; must be in (0, 0.5)",
    ),
    (
        {"model_config.metrics[0]": "calibration_error { num_bins: 0 }"},
        "model_config.metrics[0].calibration_error.num_bins is 0; must be > 0",
    ),
    (
        {"model_config.metrics[0]": "ndcg_at_k { top_k: 0 }"},
        "model_config.metrics[0].ndcg_at_k.grouping_key is not set; must name a feature or a colu",
        "model_config.metrics[0].ndcg_at_k.top_k is 0; must be > 0",
    ),
    (
        {"model_config.metrics[1]": 'grouped_xauc { grouping_key: "u" max_pairs_per_group: 0 }'},
        "model_config.metrics[1].grouped_xauc.max_pairs_per_group is 0; must be > 0, or left out",
    ),
    (
        {"model_config.metrics[0]": "xauc { in_batch: true sample_ratio: 0.1 max_pairs: 9 }"},
        "model_config.metrics[0].xauc.sample_ratio is set; must be left out with in_batch, which",
        "model_config.metrics[0].xauc.max_pairs is set; must be left out with in_batch, which",
    ),
    (
        {"model_config.metrics[0]": "xauc { weight_batches_equally: true }"},
        "model_config.metrics[0].xauc.weight_batches_equally is true; needs in_batch: true",
    ),
    (
        {"model_config.train_metrics[0]": "xauc { seed: 1 }"},
        "model_config.train_metrics[0].xauc.seed is set; needs sample_ratio or max_pairs",
    ),
    (
        {"model_config.metrics[1]": 'grouped_xauc { grouping_key: "u" seed: 1 }'},
        "model_config.metrics[1].grouped_xauc.seed is set; needs max_pairs_per_group",
    ),
    (
        {"model_config": SOFTMAX + "metrics { recall_at_k { top_k: 3 } }"},
        "model_config.metrics[1].recall_at_k.top_k is 3; must be < 3, which is num_class: the tar",
    ),
    (
        {"model_config": DLRM + "metrics { normalized_entropy {} }"},
        "model_config.metrics[2].normalized_entropy needs a class; must go with one of the losses",
    ),
    (
        {"model_config": DLRM + "metrics { calibration_error {} }"},
        "model_config.metrics[2].calibration_error needs a probability, which l2_loss does not ma",
    ),
    (
        {"model_config": DLRM + "metrics { auc {} }"},
        "model_config.metrics[2].auc needs a probability; must have thresholds: 0 with l2_loss",
    ),
    (
        {"model_config": DLRM + "metrics { accuracy {} }"},
        "model_config.metrics[2].accuracy needs a class; must go with one of the losses binary_cro",
    ),
    (
        {"model_config": SOFTMAX + "metrics { auc {} }"},
        "model_config.metrics[1].auc needs one number per row; num_class is 3, must be 1 or 2",
    ),
    (
        {"model_config": SOFTMAX.replace("accuracy {", "accuracy { threshold: 0.5 ")},
        "model_config.metrics[0].accuracy.threshold is set; must be left out as num_class is 3",
    ),
    # Export
    (
        {"export_config.exporter_type": "final"},
        "export_config.exporter_type is 'final'; supported: latest, best",
    ),
    (
        {"export_config.embedding_precision": "int8"},
        "export_config.embedding_precision is 'int8'; supported: FP32, FP16, INT8",
    ),
    (
        {"export_config": 'exporter_type: "best" best_exporter_metric: "gauc"'},
        "export_config.best_exporter_metric is 'gauc'; the config's metrics and losses are: auc, "
        "grouped_auc, binary_cross_entropy",
    ),
    (
        {"model_config.metrics": None, "export_config.exporter_type": "best"},  # default: auc
        "export_config.best_exporter_metric is 'auc'; the config's metrics and losses are: binary",
    ),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case[1][:90])
def test_a_mistake_causes_its_complaint_and_no_other(case):
    edits, *complaints = case
    found = problems(edits)
    if {"feature_configs", "feature_configs[2]"} & set(edits):  # groups name what is gone
        found = [line for line in found if "feature_names has" not in line]

    for complaint in complaints:
        assert [line for line in found if line.startswith(complaint)], found
    assert len(found) == len(complaints), found


@pytest.mark.parametrize(
    ("ratio", "is_allowed"), [(0, False), (1, True), (1.5, False), (-1, False), (1e-3, True)]
)
def test_sample_ratio_of_xauc_is_a_share(ratio, is_allowed):
    found = problems({"model_config.metrics[0]": f"xauc {{ sample_ratio: {ratio} max_pairs: 0 }}"})

    assert any("sample_ratio" in line and "(0, 1]" in line for line in found) is not is_allowed
    assert any("max_pairs is 0; must be > 0" in line for line in found)


def test_a_missing_group_is_named_with_those_that_are_there():
    assert problems({"model_config.feature_groups[1].group_name": "items"}) == [
        "model_config.feature_groups has no group 'item', which multi_tower needs; "
        "it has: user, items",
        "model_config.feature_groups[1].group_name is 'items'; "
        "multi_tower uses the groups user, item",
    ]


def test_all_problems_are_told_at_once_one_a_line():
    found = problems(
        {"data_config.batch_size": 0, "train_config.num_epochs": None, ID + "embedding_dim": 3}
    )

    assert len(found) == 3


def test_an_empty_config_is_told_what_is_missing():
    with pytest.raises(ValueError, match=r".") as error:
        check(EasyRecConfig(), required=["model_dir"])

    for name in ("model_dir", "num_epochs", "sparse_optimizer", "feature_configs", "losses"):
        assert name in str(error.value)


def test_required_fields_are_named():
    with pytest.raises(ValueError, match=r"^model_dir is not set$"):
        check(changed({"model_dir": ""}), required=["model_dir", "train_input_path"])


def test_metrics_of_one_kind_get_names_of_their_own():
    model = loads(
        """model_config {
        metrics { auc {} }
        metrics { auc {} label_name: "like" }
        metrics { grouped_auc { grouping_key: "user" } }
        metrics { grouped_auc { grouping_key: "session" } }
        metrics { grouped_auc { grouping_key: "session" } label_name: "like" }
        metrics { grouped_auc { grouping_key: "user" } label_name: "like" }
        metrics { xauc {} label_name: "time" }
        metrics { ndcg_at_k { grouping_key: "user" } }
        metrics { ndcg_at_k { grouping_key: "user" top_k: 3 } }
        metrics { ndcg_at_k { grouping_key: "session" } }
        metrics { recall_at_k {} }
        metrics { accuracy {} }
        metrics { accuracy { top_k: 2 } }
        losses { binary_cross_entropy {} }
        losses { l2_loss {} }
        }""",
        source="c",
    ).model_config

    assert metric_names(model) == [
        "auc",
        "auc_like",
        "grouped_auc",
        "grouped_auc_session",
        "grouped_auc_like",
        "grouped_auc_user",
        "xauc",
        "ndcg_at_10",
        "ndcg_at_3",
        "ndcg_at_10_session",
        "recall_at_5",
        "accuracy",
        "accuracy_top_2",
    ]
    assert loss_names(model) == ["binary_cross_entropy", "l2_loss"]


@given(st.integers(0, 50), st.integers(1, 50))
def test_decay_step_must_divide_the_logging_interval(log_steps, decay_step):
    edits = {
        "train_config.log_step_count_steps": log_steps,
        "model_config.train_metrics[0].decay_step": decay_step,
    }
    if log_steps in range(decay_step, 51, decay_step):
        check(changed(edits))
    else:
        assert problems(edits)


def test_model_names_in_the_checks_cover_the_schema():
    known = {
        field.name
        for field in ModelConfig.DESCRIPTOR.oneofs_by_name["model"].fields
        if not is_planned(field)
    }

    assert known == {"multi_tower", *MODELS} - {"softmax", "jrc"}


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        (
            MMOE.removeprefix(GROUP),
            "model_config.feature_groups is empty; must have one group, of any name",
        ),
        (
            GROUP.replace("all", "b").join([GROUP, MMOE.removeprefix(GROUP)]),
            "model_config.feature_groups[1].group_name is 'b'; mmoe uses the groups all",
        ),
        (
            MMOE.replace("feature_names", "group_type: WIDE feature_names"),
            "model_config.feature_groups[0].group_type is WIDE; must be DEEP for group 'all'",
        ),
        (
            GROUP + "simple_multi_task {}",
            "model_config.simple_multi_task.task_towers is empty; must have at least one tower",
        ),
        (
            MMOE.replace("cvr", "ctr"),
            "model_config.mmoe.task_towers[1].tower_name is 'ctr', as in an earlier tower",
        ),
        (
            MMOE.replace('"cvr"', '""'),
            "model_config.mmoe.task_towers[1].tower_name is not set",
        ),
        (
            MMOE.replace("units: 4", "units: 0"),
            "model_config.mmoe.task_towers[1].mlp.hidden_units is [0]; must be sizes > 0",
        ),
        (
            MMOE.replace("units: 8", "units: 0"),
            "model_config.mmoe.expert_mlp.hidden_units is [0]; must be sizes > 0",
        ),
        (
            MMOE.replace("mmoe {", "mmoe { gate_mlp {}"),
            "model_config.mmoe.gate_mlp.hidden_units is []; must be sizes > 0",
        ),
        (
            MMOE.replace("mmoe {", "mmoe { num_expert: 0"),
            "model_config.mmoe.num_expert is 0; must be > 0",
        ),
    ],
)
def test_mistakes_in_models_with_several_tasks_are_named(model, complaint):
    found = list(model_problems(changed({"model_config": model})))

    assert len(found) == 1, found
    assert found[0].startswith(complaint)
