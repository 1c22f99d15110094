"""Features and the batch schema from the config."""

from collections.abc import Iterable

from tzrec_core.config_tasks import TaskConfig, task_configs
from tzrec_core.features.build_feature import build_feature, definition_of
from tzrec_core.features.schema import (
    BatchSchema,
    Feature,
    cost_column,
    id_column,
    slice_column,
)
from tzrec_core.protos import data_pb2, feature_pb2, tower_pb2
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig


def build_schema(config: EasyRecConfig, *, training_labels: bool = True) -> BatchSchema:
    """Builds what batches for ``config`` are made of.

    Args:
        config: The whole config: its features, data and the tasks of its model count.
        training_labels: With labels, sample weights and grouping keys; without, only features,
            for data that is to be scored.

    Raises:
        ValueError: A feature is ill-defined, or two columns of encoded data have the same name.
    """
    data = config.data_config
    features = build_features(config.feature_configs, data)
    if not training_labels:
        return BatchSchema(features)
    tasks = list(task_configs(config.model_config).values())
    labels = [*data.label_fields, *(name for task in tasks for name in _labels(task))]
    weights = [*data.sample_weight_fields, *(name for task in tasks for name in _weights(task))]
    keys = [key for task in tasks for key in _grouping_keys(task)]
    if config.eval_config.bootstrap_key:
        keys.append(config.eval_config.bootstrap_key)
    columns = {feature.name: feature.column for feature in features}
    schema = BatchSchema(
        features,
        labels=tuple(dict.fromkeys(labels)),
        sample_weights=tuple(dict.fromkeys(weights)),
        group_keys={key: columns.get(key, key) for key in keys},
        sample_cost=data.sample_cost_field or None,
        slices=tuple(part.column for part in config.eval_config.slices),
    )
    others = [*schema.labels, *schema.sample_weights, *map(id_column, schema.group_keys)]
    if schema.sample_cost is not None:
        others.append(cost_column(schema.sample_cost))
    others += map(slice_column, schema.slices)
    for name in others:
        if name in columns:
            raise ValueError(
                f"feature_name {name!r} is also the name of a label, a sample weight, the ids of "
                "a grouping key, the sample cost or a slice; name the feature differently"
            )
    return schema


def build_features(
    feature_configs: Iterable[feature_pb2.FeatureConfig], data_config: data_pb2.DataConfig
) -> tuple[Feature, ...]:
    """Builds the features of a config; ``data_config`` tells whether their data is encoded.

    Raises:
        ValueError: A feature is ill-defined, defined twice, or shares its table with a feature
            that wants another table.
    """
    if data_config.fg_mode == data_pb2.FG_BUCKETIZE:
        raise ValueError("fg_mode must be FG_NONE, FG_NORMAL or FG_DAG, got FG_BUCKETIZE")
    features = tuple(build_feature(config, data_config) for config in feature_configs)
    names: set[str] = set()
    owners: dict[str, Feature] = {}
    for feature in features:
        if feature.name in names:
            raise ValueError(f"feature_name {feature.name!r} is there twice")
        names.add(feature.name)
        if feature.table is not None:
            _check_shared(owners.setdefault(feature.table.name, feature), feature)
    return features


def encoded_edits(config: EasyRecConfig) -> dict[str, object]:
    """Returns the edits that make ``config`` read data that ``encode`` wrote with it.

    In such data a row without an id has been given its default already, or is to have none.
    """
    edits: dict[str, object] = {"data_config.fg_mode": "FG_NONE"}
    for index, feature in enumerate(config.feature_configs):
        if definition_of(feature).HasField("fg_encoded_default_value"):
            path = f"feature_configs[{index}].{feature.WhichOneof('feature')}"
            edits[f"{path}.fg_encoded_default_value"] = None
    return edits


def _labels(task: TaskConfig) -> Iterable[str]:
    if isinstance(task, tower_pb2.TaskTower):
        if task.HasField("label_name"):
            yield task.label_name
        if task.HasField("task_space_indicator_label"):
            yield task.task_space_indicator_label
    for metric in task.metrics:
        if metric.HasField("label_name"):
            yield metric.label_name


def _weights(task: TaskConfig) -> Iterable[str]:
    if isinstance(task, tower_pb2.TaskTower) and task.HasField("sample_weight_name"):
        yield task.sample_weight_name


def _grouping_keys(task: TaskConfig) -> Iterable[str]:
    """Yields the keys of metrics and the sessions of losses."""
    for metric in task.metrics:
        kind = metric.WhichOneof("metric")
        key = getattr(getattr(metric, kind), "grouping_key", None) if kind else None
        if key is not None:
            yield key
    for loss in task.losses:
        if loss.HasField("jrc_loss"):
            yield loss.jrc_loss.session_name


def _check_shared(first: Feature, second: Feature) -> None:
    if first.table != second.table:
        raise ValueError(
            f"features {first.name!r} and {second.name!r} have the same embedding_name, so their "
            f"tables must be equal, got {first.table} and {second.table}"
        )
