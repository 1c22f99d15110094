"""Checks a config as a whole before anything is built or read: what is missing or contradicts."""

import math
from collections import Counter
from collections.abc import Iterator, Sequence

from tzrec_core.config_checks.features import feature_problems
from tzrec_core.config_checks.metric import metric_names, names_with_intervals
from tzrec_core.config_checks.model import model_problems
from tzrec_core.config_checks.sharding import sharding_problems
from tzrec_core.config_checks.task import loss_names, task_problems
from tzrec_core.config_checks.train import early_stopping_problems, train_problems
from tzrec_core.config_fields import planned_fields
from tzrec_core.config_tasks import task_configs
from tzrec_core.protos import data_pb2, eval_pb2, export_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

SUPPORTED_DATASETS = (data_pb2.ParquetDataset, data_pb2.CsvDataset)
EXPORTERS = ("latest", "best")
NEAR_TIES = ("earliest", "metric", "best")
EMBEDDING_PRECISIONS = ("FP32", "FP16", "INT8")


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
    yield from train_problems(config)
    yield from _eval_problems(config)
    yield from _data_problems(config.data_config)
    yield from feature_problems(config)
    yield from sharding_problems(config)
    yield from model_problems(config)
    yield from task_problems(config)
    tasks = task_configs(config.model_config).values()
    names = [name for task in tasks for name in (*metric_names(task), *loss_names(task))]
    yield from early_stopping_problems(config, names)
    yield from _export_problems(config.export_config, names)
    comparable = [name for task in tasks for name in names_with_intervals(task)]
    has_slices = len(config.eval_config.slices) > 0
    for index, margin in enumerate(config.export_config.gate):
        path = f"export_config.gate[{index}]"
        yield from _margin_problems(margin, path, comparable, has_slices=has_slices)


def _eval_problems(config: EasyRecConfig) -> Iterator[str]:
    evaluation = config.eval_config
    if evaluation.HasField("num_steps") and evaluation.num_steps == 0:
        yield "eval_config.num_steps is 0; must be > 0, or left out for all of the data"
    if evaluation.log_step_count_steps == 0:
        yield "eval_config.log_step_count_steps is 0; must be > 0"
    if not 0 < evaluation.confidence_level < 1:
        yield f"eval_config.confidence_level is {evaluation.confidence_level:g}; must be in (0, 1)"
    for index, slices in enumerate(evaluation.slices):
        yield from _slices_problems(slices, f"eval_config.slices[{index}]")
    for column, count in Counter(slices.column for slices in evaluation.slices).items():
        if count > 1:
            yield f"eval_config.slices has column {column!r} {count} times; columns must differ"


def _slices_problems(slices: eval_pb2.Slices, path: str) -> Iterator[str]:
    if not slices.column:
        yield f"{path}.column is not set"
    if slices.max_parts < 1:
        yield f"{path}.max_parts is {slices.max_parts}; must be > 0"
    ends = list(slices.boundaries)
    if not all(math.isfinite(end) for end in ends) or ends != sorted(set(ends)):
        yield f"{path}.boundaries is {ends}; must be finite numbers in ascending order"


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
    yield from _cost_problems(data)
    yield from _column_problems(data)


def _cost_problems(data: data_pb2.DataConfig) -> Iterator[str]:
    if data.sample_cost_field and data.batch_cost_size == 0:
        yield "data_config.batch_cost_size is 0; must be > 0 with sample_cost_field"
    if data.batch_cost_size and not data.sample_cost_field:
        yield "data_config.batch_cost_size is set; needs data_config.sample_cost_field"


def _column_problems(data: data_pb2.DataConfig) -> Iterator[str]:
    if not data.label_fields:
        yield "data_config.label_fields is empty; must name the label's column"
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
    if export.embedding_precision not in EMBEDDING_PRECISIONS:
        yield (
            f"export_config.embedding_precision is {export.embedding_precision!r};"
            f" supported: {', '.join(EMBEDDING_PRECISIONS)}"
        )
    if export.exporter_type == "best" and export.best_exporter_metric not in names:
        yield (
            f"export_config.best_exporter_metric is {export.best_exporter_metric!r};"
            f" the config's metrics and losses are: {', '.join(names) or 'none'}"
        )
    yield from _near_tie_problems(export, names)


def _near_tie_problems(export: export_pb2.ExportConfig, names: Sequence[str]) -> Iterator[str]:
    path = "export_config"
    if export.near_ties not in NEAR_TIES:
        yield f"{path}.near_ties is {export.near_ties!r}; supported: {', '.join(NEAR_TIES)}"
    if export.near_ties == "metric" and export.tie_break_metric not in names:
        yield (
            f"{path}.tie_break_metric is {export.tie_break_metric!r};"
            f" the config's metrics and losses are: {', '.join(names) or 'none'}"
        )
    if export.near_ties != "metric" and export.tie_break_metric:
        yield f"{path}.tie_break_metric is set; needs near_ties: metric"


def _margin_problems(
    margin: export_pb2.Margin, path: str, names: Sequence[str], *, has_slices: bool
) -> Iterator[str]:
    if margin.metric not in names:
        yield (
            f"{path}.metric is {margin.metric!r};"
            " the config's metrics that two models can be compared by are:"
            f" {', '.join(names) or 'none'}"
        )
    if not 0 <= margin.max_loss < math.inf:
        yield f"{path}.max_loss is {margin.max_loss:g}; must be finite and >= 0"
    if not 0 <= margin.min_slice_share <= 1:
        yield f"{path}.min_slice_share is {margin.min_slice_share:g}; must be in [0, 1]"
    if margin.HasField("min_slice_share") and not has_slices:
        yield f"{path}.min_slice_share is set; needs eval_config.slices"
