"""Mistakes in optimizers' parts, schedules, averages and precision are named with their path."""

import re

import pytest

from tests.tzrec_core.config_sample import sample
from tzrec_core.config import check, edit

DENSE = "train_config.dense_optimizer"
SPARSE = "train_config.sparse_optimizer"


def changed(edits):
    config = sample()
    edit(config, edits)
    return config


def schedule(kind, text, of=DENSE):
    return {f"{of}.{kind}_learning_rate": text}


def part(text):
    return {f"{DENSE}.part_optimizers": f"[{{ adam_optimizer {{ lr: 0.001 }} {text} }}]"}


ALLOWED = [
    schedule("exponential_decay", "decay_size: 10"),
    schedule("exponential_decay", "decay_size: 1 min_learning_rate: 0.01", of=SPARSE),  # equal
    schedule("manual_step", "schedule_sizes: [1, 2] learning_rates: [0, 1]"),
    schedule("cosine_annealing", "T_max: 1"),
    schedule("cosine_annealing_warm_restarts", "T_0: 1 T_mult: 3 warmup_learning_rate: 5"),
    # A frozen optimizer stays frozen.
    {
        f"{DENSE}.adam_optimizer.lr": 0,
        **schedule("cosine_annealing", "T_max: 1 min_learning_rate: 0.5"),
    },
    part('regex_pattern: "(.*)mlp(.*)"'),
    {f"{DENSE}.ema": "decay: 1", "eval_config.use_dense_ema": True},
    {"eval_config.use_dense_ema": False, "export_config.use_dense_ema": False},
    {"train_config.mixed_precision": "BF16", "train_config.grad_scaler": "{}"},
    {"train_config.mixed_precision": "FP16", "train_config.gradient_accumulation_steps": 4},
    {"train_config.grad_clipping": 'clipping_type: "norm" norm_type: inf'},
    {"train_config.grad_clipping": 'clipping_type: "value" enable_global_grad_clip: true'},
    {"train_config.early_stopping": ""},
    {"train_config.early_stopping": 'metric: "auc" patience: 1 min_delta: 0.01'},
    {
        "train_config.early_stopping": """
            metric: "binary_cross_entropy" metric_larger_is_better: false""",
        "train_config.save_checkpoints_steps": 0,
        "train_config.save_checkpoints_epochs": 1,
    },
    {"train_config.is_profiling": True},
    {
        "train_config.tensorboard_summaries": [
            "loss",
            "learning_rate",
            "parameter",
            "global_gradient_norm",
            "gradient_norm",
            "gradient",
        ]
    },
    {"train_config.cudnn_allow_tf32": False, "train_config.cuda_matmul_allow_tf32": True},
]


@pytest.mark.parametrize("edits", ALLOWED, ids=str)
def test_what_is_allowed(edits):
    check(changed(edits))


MISTAKES = [
    (schedule("exponential_decay", ""), ".decay_size is 0; must be > 0"),
    (
        schedule("exponential_decay", "decay_size: 1 decay_factor: 1.5"),
        ".decay_factor is 1.5; must be in (0, 1]",
    ),
    (
        schedule("exponential_decay", "decay_size: 1 min_learning_rate: 0.01"),
        f".min_learning_rate is 0.01; must be at most {DENSE}.adam_optimizer.lr, which is 0.001",
    ),
    (
        schedule("exponential_decay", "decay_size: 1 warmup_learning_rate: nan"),
        ".warmup_learning_rate is nan; must be finite and >= 0",
    ),
    (schedule("manual_step", ""), ".schedule_sizes is []; must be at least one number > 0"),
    (
        schedule("manual_step", "schedule_sizes: [1, 2] learning_rates: 1"),
        ".learning_rates has 1 entries; must have as many as schedule_sizes, which has 2",
    ),
    (
        schedule("manual_step", "schedule_sizes: [2, 1] learning_rates: [1, 1]"),
        ".schedule_sizes is [2, 1]; must be at least one number > 0, ascending",
    ),
    (
        schedule("manual_step", "schedule_sizes: 1 learning_rates: -1"),
        ".learning_rates[0] is -1; must be finite and >= 0",
    ),
    (schedule("cosine_annealing", ""), ".T_max is 0; must be > 0"),
    (schedule("cosine_annealing_warm_restarts", "T_0: 0"), ".T_0 is 0; must be > 0"),
    (
        schedule("cosine_annealing_warm_restarts", "T_0: 1 T_mult: 0"),
        ".T_mult is 0; must be > 0",
    ),
]


@pytest.mark.parametrize(("edits", "complaint"), MISTAKES, ids=lambda x: str(x)[-60:])
def test_a_schedule_that_cannot_be_is_named(edits, complaint):
    (path,) = edits

    with pytest.raises(ValueError, match=r".") as error:
        check(changed(edits))

    assert str(error.value).startswith(path + complaint)
    assert "\n" not in str(error.value)


PART = f"{DENSE}.part_optimizers[0]"


@pytest.mark.parametrize(
    ("edits", "complaint"),
    [
        (part(""), f"{PART}.regex_pattern is ''; must match"),
        (part('regex_pattern: "(a"'), f"{PART}.regex_pattern is '(a'; must be a regular expr"),
        (
            {f"{DENSE}.part_optimizers": '[{ regex_pattern: "a" }]'},
            f"{PART} has no optimizer; must have one",
        ),
        (
            {f"{DENSE}.part_optimizers": '[{ regex_pattern: "a" adam_optimizer { beta1: 1 } }]'},
            f"{PART}.adam_optimizer.beta1 is 1; must be in [0, 1)",
        ),
        (
            part('regex_pattern: "a" cosine_annealing_learning_rate {}'),
            f"{PART}.cosine_annealing_learning_rate.T_max is 0; must be > 0",
        ),
        (  # The dense optimizer's schedule, which the part takes over.
            {
                f"{DENSE}.adam_optimizer.lr": 0.5,
                **schedule("cosine_annealing", "T_max: 1 min_learning_rate: 0.25"),
                **part('regex_pattern: "a"'),
            },
            f"{DENSE}.cosine_annealing_learning_rate.min_learning_rate is 0.25; must be at most"
            f" {PART}.adam_optimizer.lr, which is 0.001",
        ),
        ({f"{DENSE}.ema": "decay: 1.5"}, f"{DENSE}.ema.decay is 1.5; must be in [0, 1]"),
        (
            {"eval_config.use_dense_ema": True},
            "eval_config.use_dense_ema is true; needs train_config.dense_optimizer.ema",
        ),
        (
            {"export_config.use_dense_ema": True},
            "export_config.use_dense_ema is true; needs train_config.dense_optimizer.ema",
        ),
        (
            {"train_config.mixed_precision": "bf16"},
            "train_config.mixed_precision is 'bf16'; supported: BF16, FP16",
        ),
        (
            {"train_config.grad_scaler": "init_scale: 0"},
            "train_config.grad_scaler.init_scale is 0; must be finite and > 0",
        ),
        (
            {"train_config.grad_scaler": "growth_factor: 1"},
            "train_config.grad_scaler.growth_factor is 1; must be finite and > 1",
        ),
        (
            {"train_config.grad_scaler": "backoff_factor: 1"},
            "train_config.grad_scaler.backoff_factor is 1; must be in (0, 1)",
        ),
        (
            {"train_config.grad_scaler": "growth_interval: 0"},
            "train_config.grad_scaler.growth_interval is 0; must be > 0",
        ),
        (
            {"train_config.gradient_accumulation_steps": 0},
            "train_config.gradient_accumulation_steps is 0; must be > 0, or left out",
        ),
        (
            {"train_config.grad_clipping": 'clipping_type: "global"'},
            "train_config.grad_clipping.clipping_type is 'global'; supported: none, norm, value",
        ),
        (
            {"train_config.grad_clipping": "max_gradient: inf"},
            "train_config.grad_clipping.max_gradient is inf; must be finite and > 0",
        ),
        (
            {"train_config.grad_clipping": "norm_type: nan"},
            "train_config.grad_clipping.norm_type is nan; must be > 0",
        ),
    ],
    ids=lambda x: str(x)[-60:],
)
def test_a_mistake_is_named(edits, complaint):
    with pytest.raises(ValueError, match=r".") as error:
        check(changed(edits))

    assert str(error.value).startswith(complaint)
    assert "\n" not in str(error.value)


LOOP_MISTAKES = [
    (
        {"train_config.tensorboard_summaries": ["loss", "gradients"]},
        "train_config.tensorboard_summaries[1] is 'gradients'; supported: loss, learning_rate,"
        " parameter, global_gradient_norm, gradient_norm, gradient",
    ),
    (
        {"train_config.tensorboard_summaries": ["loss"], "train_config.use_tensorboard": False},
        "train_config.tensorboard_summaries is set; needs train_config.use_tensorboard: true",
    ),
    (
        {"train_config.early_stopping": 'metric: "gauc" metric_larger_is_better: true'},
        "train_config.early_stopping.metric is 'gauc'; the config's metrics and losses are: ",
    ),
    (
        {
            "train_config.early_stopping": "metric_larger_is_better: true",
            "export_config.best_exporter_metric": "gauc",
        },
        "train_config.early_stopping.metric is not set, and export_config.best_exporter_metric is"
        " 'gauc'; the config's metrics and losses are: ",
    ),
    (
        {"train_config.early_stopping": 'metric: "binary_cross_entropy"'},
        "train_config.early_stopping.metric_larger_is_better is not set; must be, as"
        " binary_cross_entropy is not export_config.best_exporter_metric, which is auc",
    ),
    (
        {"train_config.early_stopping": "patience: 0"},
        "train_config.early_stopping.patience is 0; must be > 0",
    ),
    (
        {"train_config.early_stopping": "min_delta: -0.5"},
        "train_config.early_stopping.min_delta is -0.5; must be finite and >= 0",
    ),
    (
        {"train_config.early_stopping": "", "train_config.save_checkpoints_steps": 0},
        "train_config.early_stopping needs evaluations on the way, which come with checkpoints;",
    ),
]


@pytest.mark.parametrize(("edits", "complaint"), LOOP_MISTAKES, ids=lambda x: str(x)[-60:])
def test_a_mistake_in_what_the_loop_measures_and_when_it_stops_is_named(edits, complaint):
    with pytest.raises(ValueError, match=re.escape(complaint)) as error:
        check(changed(edits))

    path, _, _ = complaint.partition(" ")
    assert [line for line in str(error.value).splitlines() if line.startswith(path)]
