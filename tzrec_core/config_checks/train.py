"""Checks how the config wants to train: length, optimizers, learning rates, precision."""

import itertools
import math
import re
from collections.abc import Callable, Iterator, Sequence

from google.protobuf.message import Message

from tzrec_core.config_tasks import task_configs
from tzrec_core.protos import optimizer_pb2, train_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

# What the numbers of optimizers may be; each name means the same in all of them.
OPTIMIZER_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "lr": (lambda x: x >= 0, "must be finite and >= 0 (0 freezes)"),
    "alpha": (lambda x: 0 <= x < 1, "must be in [0, 1)"),
    "beta1": (lambda x: 0 <= x < 1, "must be in [0, 1)"),
    "beta2": (lambda x: 0 <= x < 1, "must be in [0, 1)"),
    "dampening": (lambda x: 0 <= x <= 1, "must be in [0, 1]"),
    "eps": (lambda x: x > 0, "must be finite and > 0"),
    "initial_accumulator_value": (lambda x: x >= 0, "must be finite and >= 0"),
    "max_gradient": (lambda x: x > 0, "must be finite and > 0"),
    "momentum": (lambda x: 0 <= x < 1, "must be in [0, 1)"),
    "rho": (lambda x: 0 <= x <= 1, "must be in [0, 1]"),
    "weight_decay": (lambda x: x >= 0, "must be finite and >= 0"),
}
# Likewise of learning rate schedules.
SCHEDULE_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "decay_size": (lambda x: x > 0, "must be > 0"),
    "decay_factor": (lambda x: 0 < x <= 1, "must be in (0, 1]"),
    "min_learning_rate": (lambda x: x >= 0, "must be finite and >= 0"),
    "warmup_learning_rate": (lambda x: x >= 0, "must be finite and >= 0"),
    "T_max": (lambda x: x > 0, "must be > 0"),
    "T_0": (lambda x: x > 0, "must be > 0"),
    "T_mult": (lambda x: x > 0, "must be > 0"),
}
SCALER_RANGES: dict[str, tuple[Callable[[float], bool], str]] = {
    "init_scale": (lambda x: x > 0, "must be finite and > 0"),
    "growth_factor": (lambda x: x > 1, "must be finite and > 1"),
    "backoff_factor": (lambda x: 0 < x < 1, "must be in (0, 1)"),
    "growth_interval": (lambda x: x > 0, "must be > 0"),
}
PRECISIONS = ("BF16", "FP16")
CLIPPING_TYPES = ("none", "norm", "value")
SUMMARIES = (
    "loss",
    "learning_rate",
    "parameter",
    "global_gradient_norm",
    "gradient_norm",
    "gradient",
)

_Optimizer = (
    optimizer_pb2.SparseOptimizer | optimizer_pb2.DenseOptimizer | optimizer_pb2.PartOptimizer
)


def train_problems(config: EasyRecConfig) -> Iterator[str]:
    """Yields what is wrong with ``train_config`` and with what refers to it."""
    train = config.train_config
    yield from _length_problems(train)
    if train.log_step_count_steps == 0:
        yield "train_config.log_step_count_steps is 0; must be > 0"
    yield from _all_optimizer_problems(train)
    yield from _precision_problems(train)
    yield from _average_problems(config)
    if train.tensorboard_summaries and not train.use_tensorboard:
        yield "train_config.tensorboard_summaries is set; needs train_config.use_tensorboard: true"
    for index, name in enumerate(train.tensorboard_summaries):
        if name not in SUMMARIES:
            yield (
                f"train_config.tensorboard_summaries[{index}] is {name!r};"
                f" supported: {', '.join(SUMMARIES)}"
            )
    if train.HasField("gradient_accumulation_steps") and train.gradient_accumulation_steps == 0:
        yield "train_config.gradient_accumulation_steps is 0; must be > 0, or left out"
    if train.fine_tune_ckpt_param_map and not train.fine_tune_checkpoint:
        yield (
            f"train_config.fine_tune_ckpt_param_map is {train.fine_tune_ckpt_param_map!r};"
            " needs train_config.fine_tune_checkpoint"
        )
    yield from _train_metric_problems(config)


def early_stopping_problems(config: EasyRecConfig, names: Sequence[str]) -> Iterator[str]:
    """Yields what is wrong with ``early_stopping``; ``names`` are the metrics and losses."""
    train, export = config.train_config, config.export_config
    if not train.HasField("early_stopping"):
        return
    stopping, path = train.early_stopping, "train_config.early_stopping"
    metric = stopping.metric or export.best_exporter_metric
    if metric not in names:
        is_unset = "" if stopping.metric else "not set, and export_config.best_exporter_metric is "
        yield (
            f"{path}.metric is {is_unset}{metric!r};"
            f" the config's metrics and losses are: {', '.join(names) or 'none'}"
        )
    has_direction = stopping.HasField("metric_larger_is_better")
    if metric != export.best_exporter_metric and not has_direction:
        yield (
            f"{path}.metric_larger_is_better is not set; must be, as {metric} is not"
            f" export_config.best_exporter_metric, which is {export.best_exporter_metric}"
        )
    if stopping.patience == 0:
        yield f"{path}.patience is 0; must be > 0"
    if not 0 <= stopping.min_delta < math.inf:
        yield f"{path}.min_delta is {stopping.min_delta:g}; must be finite and >= 0"
    if not train.save_checkpoints_steps and not train.save_checkpoints_epochs:
        yield (
            f"{path} needs evaluations on the way, which come with checkpoints;"
            " train_config.save_checkpoints_steps is 0, must be > 0, or save_checkpoints_epochs"
        )


def _train_metric_problems(config: EasyRecConfig) -> Iterator[str]:
    every = config.train_config.log_step_count_steps
    metrics = {
        f"{task_path}.train_metrics[{index}]": metric
        for task_path, task in task_configs(config.model_config).items()
        for index, metric in enumerate(task.train_metrics)
    }
    for path, metric in metrics.items():
        if metric.decay_step == 0:
            yield f"{path}.decay_step is 0; must be > 0"
        elif every % metric.decay_step:
            yield (
                f"{path}.decay_step is {metric.decay_step}; must divide"
                f" train_config.log_step_count_steps, which is {every}"
            )


def _length_problems(train: train_pb2.TrainConfig) -> Iterator[str]:
    names = [name for name in ("num_steps", "num_epochs") if train.HasField(name)]
    if len(names) != 1:
        is_set = f"{train.num_steps} and {train.num_epochs} are" if names else "neither is"
        yield (
            f"train_config.num_steps and train_config.num_epochs: {is_set} set;"
            " exactly one of them must be"
        )
    for name in names:
        if getattr(train, name) == 0:
            yield f"train_config.{name} is 0; must be > 0, or left out"


def _all_optimizer_problems(train: train_pb2.TrainConfig) -> Iterator[str]:
    dense, dense_path = train.dense_optimizer, "train_config.dense_optimizer"
    for config, path in (
        (train.sparse_optimizer, "train_config.sparse_optimizer"),
        (dense, dense_path),
    ):
        yield from _optimizer_problems(config, path)
        yield from _schedule_problems(config, path)
        yield from _floor_problems(config, path, config, path)
    for index, part in enumerate(dense.part_optimizers):
        path = f"{dense_path}.part_optimizers[{index}]"
        yield from _optimizer_problems(part, path)
        yield from _pattern_problems(part.regex_pattern, f"{path}.regex_pattern")
        if part.WhichOneof("learning_rate"):
            yield from _schedule_problems(part, path)
            yield from _floor_problems(part, path, part, path)
        else:
            yield from _floor_problems(dense, dense_path, part, path)


def _optimizer_problems(config: _Optimizer, path: str) -> Iterator[str]:
    kind = config.WhichOneof("optimizer")
    if kind is None:
        yield f"{path} has no optimizer; must have one, for example adagrad_optimizer"
        return
    chosen: Message = getattr(config, kind)
    yield from _range_problems(chosen, f"{path}.{kind}", OPTIMIZER_RANGES)
    is_nesterov = isinstance(chosen, optimizer_pb2.SGDOptimizer) and chosen.nesterov
    if is_nesterov and (chosen.momentum == 0 or chosen.dampening != 0):
        yield f"{path}.{kind}.nesterov is true; needs momentum > 0 and dampening 0"


def _range_problems(
    message: Message, path: str, ranges: dict[str, tuple[Callable[[float], bool], str]]
) -> Iterator[str]:
    for field in message.DESCRIPTOR.fields:
        if field.name in ranges:
            is_allowed, allowed = ranges[field.name]
            value = getattr(message, field.name)
            if not (math.isfinite(value) and is_allowed(value)):
                yield f"{path}.{field.name} is {value:g}; {allowed}"


def _pattern_problems(pattern: str, path: str) -> Iterator[str]:
    if not pattern:
        yield f"{path} is ''; must match the names of the part's parameters"
    try:
        re.compile(pattern)
    except re.error as error:
        yield f"{path} is {pattern!r}; must be a regular expression: {error}"


def _schedule_problems(config: _Optimizer, path: str) -> Iterator[str]:
    kind = config.WhichOneof("learning_rate")
    if kind is None:
        return
    chosen: Message = getattr(config, kind)
    yield from _range_problems(chosen, f"{path}.{kind}", SCHEDULE_RANGES)
    if isinstance(chosen, optimizer_pb2.ManualStepLR):
        yield from _manual_step_problems(chosen, f"{path}.{kind}")


def _manual_step_problems(manual: optimizer_pb2.ManualStepLR, path: str) -> Iterator[str]:
    sizes, rates = list(manual.schedule_sizes), list(manual.learning_rates)
    if not sizes or sizes[0] == 0 or any(a >= b for a, b in itertools.pairwise(sizes)):
        yield f"{path}.schedule_sizes is {sizes}; must be at least one number > 0, ascending"
    if len(rates) != len(sizes):
        yield (
            f"{path}.learning_rates has {len(rates)} entries; must have as many as"
            f" schedule_sizes, which has {len(sizes)}"
        )
    for index, rate in enumerate(rates):
        if not (math.isfinite(rate) and rate >= 0):
            yield f"{path}.learning_rates[{index}] is {rate:g}; must be finite and >= 0"


def _floor_problems(
    scheduled: _Optimizer, schedule_path: str, optimizer: _Optimizer, path: str
) -> Iterator[str]:
    """Yields a least rate above the rate that the optimizer starts from."""
    kind, optimizer_kind = scheduled.WhichOneof("learning_rate"), optimizer.WhichOneof("optimizer")
    if kind is None or optimizer_kind is None:
        return
    floor = getattr(getattr(scheduled, kind), "min_learning_rate", 0.0)
    lr = getattr(optimizer, optimizer_kind).lr
    if 0 < lr < floor:
        yield (
            f"{schedule_path}.{kind}.min_learning_rate is {floor:g}; must be at most"
            f" {path}.{optimizer_kind}.lr, which is {lr:g}"
        )


def _precision_problems(train: train_pb2.TrainConfig) -> Iterator[str]:
    if train.mixed_precision and train.mixed_precision not in PRECISIONS:
        yield (
            f"train_config.mixed_precision is {train.mixed_precision!r};"
            f" supported: {', '.join(PRECISIONS)}, or left out for float32"
        )
    if train.HasField("grad_scaler"):
        yield from _range_problems(train.grad_scaler, "train_config.grad_scaler", SCALER_RANGES)
    clipping, path = train.grad_clipping, "train_config.grad_clipping"
    if clipping.clipping_type not in CLIPPING_TYPES:
        yield (
            f"{path}.clipping_type is {clipping.clipping_type!r};"
            f" supported: {', '.join(CLIPPING_TYPES)}"
        )
    if not (math.isfinite(clipping.max_gradient) and clipping.max_gradient > 0):
        yield f"{path}.max_gradient is {clipping.max_gradient:g}; must be finite and > 0"
    if not clipping.norm_type > 0:
        yield f"{path}.norm_type is {clipping.norm_type:g}; must be > 0 (inf: the largest element)"


def _average_problems(config: EasyRecConfig) -> Iterator[str]:
    dense = config.train_config.dense_optimizer
    if dense.HasField("ema"):
        decay = dense.ema.decay
        if not 0 <= decay <= 1:
            yield f"train_config.dense_optimizer.ema.decay is {decay:g}; must be in [0, 1]"
        return
    for name in ("eval_config", "export_config"):
        if getattr(config, name).use_dense_ema:
            yield f"{name}.use_dense_ema is true; needs train_config.dense_optimizer.ema"
