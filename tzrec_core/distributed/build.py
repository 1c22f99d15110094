"""From the config, how each feature's tables may be sharded."""

from collections.abc import Iterable

from tzrec_core.distributed.table_plan import WHOLE, TableConstraint
from tzrec_core.features.build_feature import definition_of
from tzrec_core.features.schema import Feature
from tzrec_core.protos.feature_pb2 import ParameterConstraints
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig


def build_constraints(
    config: EasyRecConfig, features: Iterable[Feature], *, device_type: str, training: bool = True
) -> dict[str, TableConstraint]:
    """Returns the constraints of each sparse feature's tables, by the name of the feature.

    What no feature of a table says is as in ``global_embedding_constraints``, and what it does not
    say either, as of ``WHOLE``. Of the compute kernels those remain that the device has.

    Args:
        config: Checked: features that share a table agree.
        features: Of the config.
        device_type: Where the tables will be, "cpu" or "cuda".
        training: False takes compute kernels that this kind of device does not have.

    Raises:
        ValueError: The device has none of the compute kernels.
    """
    own = {
        definition.feature_name: definition.embedding_constraints
        for definition in map(definition_of, config.feature_configs)
    }
    tables: dict[str, list[str]] = {}
    for feature in features:
        if feature.table is not None:
            tables.setdefault(feature.table.name, []).append(feature.name)
    constraints: dict[str, TableConstraint] = {}
    for names in tables.values():
        messages = [own[name] for name in names]
        messages.append(config.train_config.global_embedding_constraints)
        kernels = _first("compute_kernels", messages) or WHOLE.compute_kernels
        if device_type == "cpu":  # which has no other memory than its own
            if training and "fused" not in kernels:
                raise ValueError(
                    f"compute_kernels of feature {names[0]!r} are {', '.join(kernels)}, which need "
                    "a GPU; on a CPU they must have fused"
                )
            kernels = WHOLE.compute_kernels
        types = _first("sharding_types", messages) or WHOLE.sharding_types
        constraints |= dict.fromkeys(names, TableConstraint(types, kernels))
    return constraints


def _first(field: str, messages: Iterable[ParameterConstraints]) -> tuple[str, ...]:
    """Returns the first of the lists that is not empty."""
    return next((tuple(names) for m in messages if (names := getattr(m, field))), ())
