"""Checks feature configs: names, columns, how values become ids, and tables that are shared."""

import math
from collections.abc import Iterator
from itertools import pairwise

from tzrec_core.config_tasks import task_configs
from tzrec_core.protos import data_pb2
from tzrec_core.protos.feature_pb2 import FeatureConfig, IdFeature, RawFeature
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

ID_SOURCES = ("hash_bucket_size", "num_buckets", "vocab_list", "vocab_dict", "vocab_file")
POOLINGS = ("sum", "mean")
SIDES = ("user", "item", "context")
# FBGEMM's kernels read rows four numbers at a time.
DIM_MULTIPLE = 4
# Ids 0 and 1 of a vocabulary stand for the default value and for unknown values.
NUM_RESERVED_IDS = 2


def settings(feature: FeatureConfig) -> IdFeature | RawFeature | None:
    """The member of the oneof that is set."""
    match feature.WhichOneof("feature"):
        case "id_feature":
            return feature.id_feature
        case "raw_feature":
            return feature.raw_feature
        case _:
            return None


def is_sparse(feature: IdFeature | RawFeature) -> bool:
    """Whether the feature has an embedding table: ids, and raw numbers with boundaries."""
    return isinstance(feature, IdFeature) or bool(feature.boundaries)


def feature_problems(config: EasyRecConfig) -> Iterator[str]:
    """Yields what is wrong with the features, taken one by one and together."""
    if not config.feature_configs:
        yield "feature_configs is empty; must have at least one feature"
    named: dict[str, str] = {}
    tables: dict[str, tuple[str, IdFeature | RawFeature]] = {}
    for index, entry in enumerate(config.feature_configs):
        feature = settings(entry)
        if feature is None:
            yield f"feature_configs[{index}] has no feature; must have id_feature or raw_feature"
            continue
        path = f"feature_configs[{index}].{entry.WhichOneof('feature')}"
        suffix = f" (feature {feature.feature_name})"
        yield from _name_problems(config, feature, path, named)
        for problem in _column_problems(config.data_config, feature):
            yield f"{path}.{problem}{suffix}"
        for problem in _value_problems(feature):
            yield f"{path}.{problem}{suffix}"
        if is_sparse(feature) and named.get(feature.feature_name) == path:
            name = feature.embedding_name or f"{feature.feature_name}_emb"
            other_path, other = tables.setdefault(name, (path, feature))
            for problem in _sharing_problems(feature, other):
                yield (
                    f"{path}.{problem} in {other_path} (feature {other.feature_name}), but both"
                    f" use the table {name!r}{suffix}"
                )


def _name_problems(
    config: EasyRecConfig, feature: IdFeature | RawFeature, path: str, named: dict[str, str]
) -> Iterator[str]:
    name = feature.feature_name
    if not name:
        yield f"{path}.feature_name is not set"
        return
    first = named.setdefault(name, path)
    if first != path:
        yield f"{path}.feature_name is {name!r}, as in {first}; names must differ"
    for field in ("feature_name", "embedding_name"):
        # Names become parts of parameter names, where dots separate modules.
        if "." in getattr(feature, field):
            yield f"{path}.{field} is {getattr(feature, field)!r}; must not have a dot"
    data = config.data_config
    others = {label: "a label (data_config.label_fields)" for label in data.label_fields}
    for weight in data.sample_weight_fields:
        others.setdefault(weight, "a sample weight (data_config.sample_weight_fields)")
    for task_path, task in task_configs(config.model_config).items():
        for index, metric in enumerate(task.metrics):
            if metric.label_name:
                others.setdefault(metric.label_name, f"{task_path}.metrics[{index}].label_name")
    if name in others:
        yield f"{path}.feature_name is {name!r}, which is also {others[name]}; names must differ"


def _column_problems(data: data_pb2.DataConfig, feature: IdFeature | RawFeature) -> Iterator[str]:
    if data.fg_mode == data_pb2.FG_NONE:
        return
    side, colon, column = feature.expression.rpartition(":")
    if not column:
        yield (
            f"expression is {feature.expression!r}; must be the column, like 'user:age'"
            f" (fg_mode is {data_pb2.FgMode.Name(data.fg_mode)})"
        )
    elif colon and side not in SIDES:
        yield (
            f"expression is {feature.expression!r}; what stands before the column must be one of"
            f" {', '.join(SIDES)}"
        )
    elif column in data.label_fields:
        yield f"expression is {feature.expression!r}; the label must not be an input"


def _value_problems(feature: IdFeature | RawFeature) -> Iterator[str]:
    """Yields problems that start with the name of the field."""
    if feature.data_type != "FP32":
        yield f"data_type is {feature.data_type!r}; supported: FP32"
    if feature.pooling.lower() not in POOLINGS:
        yield f"pooling is {feature.pooling!r}; supported: {', '.join(POOLINGS)}"
    if not feature.separator:
        yield "separator is ''; must be at least one character"
    if is_sparse(feature):
        dim = feature.embedding_dim
        if dim == 0 or dim % DIM_MULTIPLE:
            yield f"embedding_dim is {dim}; must be a multiple of {DIM_MULTIPLE}, above 0"
    if isinstance(feature, IdFeature):
        yield from _id_problems(feature)
    else:
        yield from _raw_problems(feature)


def _id_problems(feature: IdFeature) -> Iterator[str]:
    sources = [source for source in ID_SOURCES if _is_given(feature, source)]
    if len(sources) != 1:
        given = " and ".join(sources) or "nothing"
        yield f"{given} is set; must be exactly one of {', '.join(ID_SOURCES)}"
    for source in ("hash_bucket_size", "num_buckets"):
        if feature.HasField(source) and getattr(feature, source) == 0:
            yield f"{source} is 0; must be > 0"
    if len(set(feature.vocab_list)) < len(feature.vocab_list):
        twice = {value for value in feature.vocab_list if list(feature.vocab_list).count(value) > 1}
        yield f"vocab_list has {', '.join(sorted(twice))} more than once; entries must differ"
    if not feature.HasField("default_bucketize_value"):
        for value, number in sorted(feature.vocab_dict.items()):
            if number < NUM_RESERVED_IDS:
                yield (
                    f"vocab_dict[{value}] is {number}; must be >= {NUM_RESERVED_IDS} unless"
                    " default_bucketize_value is set: 0 is the default value, 1 the unknown ones"
                )
    if feature.HasField("default_bucketize_value"):
        unknown_id, rows = feature.default_bucketize_value, num_rows(feature)
        if "hash_bucket_size" in sources:
            yield (
                f"default_bucketize_value is {unknown_id}; has no meaning with hash_bucket_size,"
                " which knows every value"
            )
        elif rows is not None and unknown_id >= rows:
            yield (
                f"default_bucketize_value is {unknown_id}; must be < {rows}, the number of rows"
                " of the table"
            )


def _is_given(feature: IdFeature, source: str) -> bool:
    value = getattr(feature, source)
    # A size that is set to 0 is wrong in itself, but it is the one that was meant.
    return bool(value) or (source.endswith(("size", "buckets")) and feature.HasField(source))


def _raw_problems(feature: RawFeature) -> Iterator[str]:
    boundaries = list(feature.boundaries)
    if not all(math.isfinite(boundary) for boundary in boundaries):
        yield f"boundaries is {boundaries}; must be finite"
    elif any(low >= high for low, high in pairwise(boundaries)):
        yield f"boundaries is {boundaries}; must ascend"
    if not boundaries:
        if feature.value_dim == 0:
            yield "value_dim is 0; must be > 0 without boundaries"
        for field in ("embedding_dim", "embedding_name"):
            if getattr(feature, field):
                yield f"{field} is {getattr(feature, field)!r}; needs boundaries"


def num_rows(feature: IdFeature | RawFeature) -> int | None:
    """Rows of the feature's table, or None if a file has to be read to tell."""
    if isinstance(feature, RawFeature):
        return len(feature.boundaries) + 1
    reserved = 0 if feature.HasField("default_bucketize_value") else NUM_RESERVED_IDS
    if feature.vocab_list:
        return len(feature.vocab_list) + reserved
    if feature.vocab_dict:
        largest: int = max(feature.vocab_dict.values())
        return max(largest, reserved - 1) + 1
    if feature.vocab_file:
        return None
    return int(feature.hash_bucket_size or feature.num_buckets)


def _sharing_problems(
    feature: IdFeature | RawFeature, other: IdFeature | RawFeature
) -> Iterator[str]:
    """Yields what keeps two features from using one table; starts with the name of the field."""
    if feature is other:
        return
    for field in ("embedding_dim", "pooling", "init_fn"):
        value, other_value = getattr(feature, field), getattr(other, field)
        if str(value).lower() != str(other_value).lower():
            yield f"{field} is {value!r}, {other_value!r}"
    rows, other_rows = num_rows(feature), num_rows(other)
    if None not in (rows, other_rows) and rows != other_rows:
        yield f"embedding_name: the table has {rows} rows, {other_rows}"
