"""Checks how embedding tables are to be sharded, and what computes them."""

from collections.abc import Iterator

from tzrec_core.config_checks.features import is_sparse, settings
from tzrec_core.protos.feature_pb2 import IdFeature, ParameterConstraints, RawFeature
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

ROW_TYPES = ("row_wise", "table_row_wise")
COLUMN_WISE = "column_wise"
SUPPORTED = {
    "sharding_types": ("table_wise", *ROW_TYPES, COLUMN_WISE),
    "compute_kernels": ("fused", "fused_uvm", "fused_uvm_caching"),
}
# Of TorchRec's others, why they are not.
REASONS = {
    "data_parallel": "the dense optimizer would train the table",
    "dense": "the dense optimizer would train the table",
    "grid_shard": "with pooling mean TorchRec would return sums",
    "table_column_wise": "TorchRec cannot save it where a rank has no part; column_wise can be",
}
# Their formulas have means or norms of a row.
ROWWISE_OPTIMIZERS = (
    "rowwise_adagrad_optimizer",
    "partial_rowwise_adam_optimizer",
    "lamb_optimizer",
    "partial_rowwise_lamb_optimizer",
    "lars_sgd_optimizer",
)
# Columns are split into parts of at least as many.
MIN_COLUMNS = 4

_Feature = IdFeature | RawFeature


def sharding_problems(config: EasyRecConfig) -> Iterator[str]:
    """Yields what is wrong with the constraints of tables, and with what they cannot go with."""
    common, common_path = (
        config.train_config.global_embedding_constraints,
        "train_config.global_embedding_constraints",
    )
    yield from _constraint_problems(config, common, common_path)
    first: dict[tuple[str, str], tuple[str, str, list[str]]] = {}
    for index, entry in enumerate(config.feature_configs):
        feature = settings(entry)
        if feature is None:
            continue
        path = f"feature_configs[{index}].{entry.WhichOneof('feature')}"
        of_feature = f" (feature {feature.feature_name})"
        own, own_path = feature.embedding_constraints, f"{path}.embedding_constraints"
        if not is_sparse(feature):
            if feature.HasField("embedding_constraints"):
                yield f"{own_path} is set; needs boundaries{of_feature}"
            continue
        for problem in _constraint_problems(config, own, own_path):
            yield problem + of_feature
        table = feature.embedding_name or f"{feature.feature_name}_emb"
        for field in SUPPORTED:
            names = sorted(getattr(own, field))
            if names:
                other_path, of_other, other = first.setdefault(
                    (table, field), (own_path, of_feature, names)
                )
                if names != other:
                    yield (
                        f"{own_path}.{field} is {names}, {other} in {other_path}{of_other}, but"
                        f" both use the table {table!r}{of_feature}"
                    )
        is_own = bool(own.sharding_types)
        types, types_path = (own, own_path) if is_own else (common, common_path)
        for problem in _feature_problems(config, feature, list(types.sharding_types)):
            yield f"{path}.{problem} with {types_path}.sharding_types{of_feature}"


def _constraint_problems(
    config: EasyRecConfig, constraints: ParameterConstraints, path: str
) -> Iterator[str]:
    for field, supported in SUPPORTED.items():
        for name in getattr(constraints, field):
            if name not in supported:
                reason = f" ({REASONS[name]})" if name in REASONS else ""
                yield f"{path}.{field} has {name!r}{reason}; supported: {', '.join(supported)}"
    optimizer = config.train_config.sparse_optimizer.WhichOneof("optimizer")
    if COLUMN_WISE in constraints.sharding_types and optimizer in ROWWISE_OPTIMIZERS:
        yield (
            f"{path}.sharding_types has {COLUMN_WISE!r}; must not with"
            f" train_config.sparse_optimizer.{optimizer}, which needs whole rows"
        )


def _feature_problems(
    config: EasyRecConfig, feature: _Feature, sharding_types: list[str]
) -> Iterator[str]:
    """Yields problems that start with the name of the field."""
    dim, is_weighted = feature.embedding_dim, isinstance(feature, IdFeature) and feature.weighted
    if set(sharding_types) == {COLUMN_WISE} and dim <= MIN_COLUMNS:
        yield (
            f"embedding_dim is {dim}; must be > {MIN_COLUMNS}, as parts of rows are multiples of"
            f" {MIN_COLUMNS},"
        )
    optimizer = config.train_config.sparse_optimizer
    kind = optimizer.WhichOneof("optimizer")
    is_clipped = kind is not None and getattr(optimizer, kind).gradient_clipping
    is_mean = feature.pooling.lower() == "mean" and not is_weighted
    if is_clipped and is_mean and set(sharding_types) & set(ROW_TYPES):
        yield (
            f"pooling is {feature.pooling!r}; must be 'sum' where"
            f" train_config.sparse_optimizer.{kind}.gradient_clipping meets rows that are split,"
        )
