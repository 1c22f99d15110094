"""Checks a config as a whole before anything is built or read: what is missing or contradicts."""

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from google.protobuf.message import Message

from tzrec_core.config_check_features import feature_problems
from tzrec_core.config_check_model import model_problems
from tzrec_core.config_check_task import loss_names, metric_names, task_problems
from tzrec_core.config_fields import planned_fields
from tzrec_core.protos import data_pb2, export_pb2, optimizer_pb2, train_pb2
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
SUPPORTED_DATASETS = (data_pb2.ParquetDataset, data_pb2.CsvDataset)
EXPORTERS = ("latest", "best")


def check(config: EasyRecConfig, required: Sequence[str] = ()) -> None:
    """Checks everything that can be told from the config alone.

    Args:
        config: the effective config: flags and edits applied.
        required: names of top-level fields that the caller needs, such as ``model_dir``.

    Raises:
        ValueError: all problems, one a line, each with the field's path, its value and what is
            allowed.
    """
    problems = list(_problems(config, required))
    if problems:
        raise ValueError("\n".join(problems))


def _problems(config: EasyRecConfig, required: Sequence[str]) -> Iterator[str]:
    for path in planned_fields(config):
        yield f"{path} is not supported yet"
    for name in required:
        if not getattr(config, name):
            yield f"{name} is not set"
    yield from _train_problems(config)
    yield from _eval_problems(config)
    yield from _data_problems(config.data_config)
    yield from feature_problems(config)
    yield from model_problems(config)
    yield from task_problems(config.model_config)
    names = [*metric_names(config.model_config), *loss_names(config.model_config)]
    yield from _export_problems(config.export_config, names)


def _train_problems(config: EasyRecConfig) -> Iterator[str]:
    train = config.train_config
    yield from _length_problems(train)
    if train.log_step_count_steps == 0:
        yield "train_config.log_step_count_steps is 0; must be > 0"
    yield from _optimizer_problems(train.sparse_optimizer, "train_config.sparse_optimizer")
    yield from _optimizer_problems(train.dense_optimizer, "train_config.dense_optimizer")
    for index, metric in enumerate(config.model_config.train_metrics):
        path = f"model_config.train_metrics[{index}]"
        if metric.decay_step == 0:
            yield f"{path}.decay_step is 0; must be > 0"
        elif train.log_step_count_steps % metric.decay_step:
            yield (
                f"{path}.decay_step is {metric.decay_step}; must divide"
                f" train_config.log_step_count_steps, which is {train.log_step_count_steps}"
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


def _optimizer_problems(
    config: optimizer_pb2.SparseOptimizer | optimizer_pb2.DenseOptimizer, path: str
) -> Iterator[str]:
    kind = config.WhichOneof("optimizer")
    if kind is None:
        yield f"{path} has no optimizer; must have one, for example adagrad_optimizer"
        return
    chosen: Message = getattr(config, kind)
    for field in chosen.DESCRIPTOR.fields:
        if field.name in OPTIMIZER_RANGES:
            is_allowed, allowed = OPTIMIZER_RANGES[field.name]
            value = getattr(chosen, field.name)
            if not (math.isfinite(value) and is_allowed(value)):
                yield f"{path}.{kind}.{field.name} is {value:g}; {allowed}"
    is_nesterov = isinstance(chosen, optimizer_pb2.SGDOptimizer) and chosen.nesterov
    if is_nesterov and (chosen.momentum == 0 or chosen.dampening != 0):
        yield f"{path}.{kind}.nesterov is true; needs momentum > 0 and dampening 0"


def _eval_problems(config: EasyRecConfig) -> Iterator[str]:
    evaluation = config.eval_config
    if evaluation.HasField("num_steps") and evaluation.num_steps == 0:
        yield "eval_config.num_steps is 0; must be > 0, or left out for all of the data"
    if evaluation.log_step_count_steps == 0:
        yield "eval_config.log_step_count_steps is 0; must be > 0"


def _data_problems(data: data_pb2.DataConfig) -> Iterator[str]:
    if data.dataset_type not in SUPPORTED_DATASETS:
        name = data_pb2.DatasetType.Name(data.dataset_type)
        supported = ", ".join(data_pb2.DatasetType.Name(kind) for kind in SUPPORTED_DATASETS)
        yield f"data_config.dataset_type is {name}; supported: {supported}"
    if data.HasField("fg_encoded"):
        yield "data_config.fg_encoded is an old name; set data_config.fg_mode instead"
    if data.fg_mode == data_pb2.FG_BUCKETIZE:
        yield (
            "data_config.fg_mode is FG_BUCKETIZE; supported: FG_NONE (encoded data),"
            " FG_NORMAL and FG_DAG (raw data)"
        )
    if data.batch_size == 0:
        yield "data_config.batch_size is 0; must be > 0"
    if data.HasField("eval_batch_size") and data.eval_batch_size == 0:
        yield "data_config.eval_batch_size is 0; must be > 0, or left out to be batch_size"
    if data.shuffle and data.shuffle_buffer_size == 0:
        yield "data_config.shuffle_buffer_size is 0; must be > 0 when shuffle is true"
    if len(data.delimiter) != 1 or not data.delimiter.isascii():
        yield f"data_config.delimiter is {data.delimiter!r}; must be one ASCII character"
    if not data.fg_encoded_multival_sep:
        yield "data_config.fg_encoded_multival_sep is ''; must be at least one character"
    yield from _column_problems(data)


def _column_problems(data: data_pb2.DataConfig) -> Iterator[str]:
    if not data.label_fields:
        yield "data_config.label_fields is empty; must name the label's column"
    if len(data.sample_weight_fields) > 1:
        yield (
            f"data_config.sample_weight_fields is {list(data.sample_weight_fields)};"
            " a model with one task takes at most one"
        )
    columns = {
        "label_fields": list(data.label_fields),
        "sample_weight_fields": list(data.sample_weight_fields),
        "input_fields": [field.input_name for field in data.input_fields],
    }
    for name, names in columns.items():
        for column, count in Counter(names).items():
            if not column:
                yield f"data_config.{name} has an entry without a name"
            elif count > 1:
                yield f"data_config.{name} has {column!r} {count} times; names must differ"
    is_csv = data.dataset_type == data_pb2.CsvDataset
    if is_csv and not data.with_header and not data.input_fields:
        yield (
            "data_config.input_fields is empty; must name the columns of CSV data,"
            " unless with_header is true"
        )


def _export_problems(export: export_pb2.ExportConfig, names: Sequence[str]) -> Iterator[str]:
    if export.exporter_type not in EXPORTERS:
        yield (
            f"export_config.exporter_type is {export.exporter_type!r};"
            f" supported: {', '.join(EXPORTERS)}"
        )
    if export.exporter_type == "best" and export.best_exporter_metric not in names:
        yield (
            f"export_config.best_exporter_metric is {export.best_exporter_metric!r};"
            f" the config's metrics and losses are: {', '.join(names) or 'none'}"
        )
