"""Checks feature groups and networks of the model config."""

from collections import Counter
from collections.abc import Iterator, Sequence

from tzrec_core.config_checks.features import DIM_MULTIPLE, is_sparse, settings
from tzrec_core.protos import (
    model_pb2,
    module_pb2,
    multi_task_rank_pb2,
    rank_model_pb2,
    tower_pb2,
)
from tzrec_core.protos.feature_pb2 import IdFeature, RawFeature
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

Features = dict[str, IdFeature | RawFeature]
Groups = dict[str, model_pb2.FeatureGroupConfig]
DEEP, WIDE = model_pb2.DEEP, model_pb2.WIDE


def model_problems(config: EasyRecConfig) -> Iterator[str]:
    """Yields what is wrong with ``config.model_config``, the features being known."""
    model = config.model_config
    entries = [settings(feature) for feature in config.feature_configs]
    features = {entry.feature_name: entry for entry in entries if entry is not None}
    kind = model.WhichOneof("model")
    if kind is None:
        names = sorted(field.name for field in model.DESCRIPTOR.oneofs_by_name["model"].fields)
        yield f"model_config has no model; must have one of {', '.join(names)}"
    else:
        yield from _group_problems(model, features)
        yield from _network_problems(model, features)


def _group_types(model: model_pb2.ModelConfig) -> tuple[dict[str, int], dict[str, int]]:
    """The groups that a model needs and those that it may have, with their types."""
    match model.WhichOneof("model"):
        case "deepfm":
            return {"wide": WIDE, "deep": DEEP}, {"fm": DEEP}
        case "wide_and_deep":
            return {"wide": WIDE, "deep": DEEP}, {}
        case "dlrm":
            return {"sparse": DEEP}, {"dense": DEEP}
        case "simple_multi_task" | "mmoe":
            return {group.group_name: DEEP for group in model.feature_groups[:1]}, {}
        case _:
            return {tower.input: DEEP for tower in model.multi_tower.towers}, {}


def _group_problems(model: model_pb2.ModelConfig, features: Features) -> Iterator[str]:
    kind = model.WhichOneof("model")
    needed, optional = _group_types(model)
    names = [group.group_name for group in model.feature_groups]
    for name in needed:
        if name not in names:
            yield (
                f"model_config.feature_groups has no group {name!r}, which {kind} needs;"
                f" it has: {', '.join(names) or 'none'}"
            )
    types = needed | optional
    for index, group in enumerate(model.feature_groups):
        path, name = f"model_config.feature_groups[{index}]", group.group_name
        if name not in types:
            yield f"{path}.group_name is {name!r}; {kind} uses the groups {', '.join(types)}"
        elif group.group_type != types[name]:
            yield (
                f"{path}.group_type is {model_pb2.FeatureGroupType.Name(group.group_type)};"
                f" must be {model_pb2.FeatureGroupType.Name(types[name])} for group {name!r}"
            )
        if name in names[:index]:
            yield f"{path}.group_name is {name!r}, as in an earlier group; names must differ"
        if not group.feature_names:
            yield f"{path}.feature_names is empty (group {name})"
        for feature, count in Counter(group.feature_names).items():
            if feature not in features:
                known = ", ".join(sorted(features)) or "none"
                yield f"{path}.feature_names has {feature!r}; the features are: {known}"
            elif count > 1:
                yield f"{path}.feature_names has {feature!r} {count} times (group {name})"


def _network_problems(model: model_pb2.ModelConfig, features: Features) -> Iterator[str]:
    groups = {group.group_name: group for group in model.feature_groups}
    match model.WhichOneof("model"):
        case "deepfm":
            yield from _wide_problems(model.deepfm, "model_config.deepfm")
            fm = "fm" if "fm" in groups else "deep"
            yield from _dim_problems(model, features, fm, only_sparse=fm == "fm")
        case "wide_and_deep":
            yield from _wide_problems(model.wide_and_deep, "model_config.wide_and_deep")
        case "dlrm":
            yield from _dlrm_problems(model, features, groups)
        case "multi_tower":
            yield from _tower_problems(model)
        case "simple_multi_task":
            yield from _task_tower_problems(model, model.simple_multi_task.task_towers)
        case "mmoe":
            yield from _task_tower_problems(model, model.mmoe.task_towers)
            yield from _expert_problems(model.mmoe)


def _wide_problems(
    network: rank_model_pb2.DeepFM | rank_model_pb2.WideAndDeep, path: str
) -> Iterator[str]:
    dim = network.wide_embedding_dim
    if dim == 0 or dim % DIM_MULTIPLE:
        yield f"{path}.wide_embedding_dim is {dim}; must be a multiple of {DIM_MULTIPLE}, above 0"
    yield from _mlp_problems(network.deep, f"{path}.deep")
    if network.HasField("final"):
        yield from _mlp_problems(network.final, f"{path}.final")


def _dlrm_problems(
    model: model_pb2.ModelConfig, features: Features, groups: Groups
) -> Iterator[str]:
    dlrm, path = model.dlrm, "model_config.dlrm"
    yield from _mlp_problems(dlrm.final, f"{path}.final")
    dims = _dims(groups.get("sparse"), features)
    yield from _dim_problems(model, features, "sparse", only_sparse=True)
    if "dense" not in groups:
        if dlrm.HasField("dense_mlp"):
            yield f"{path}.dense_mlp is set; needs a feature group 'dense'"
        return
    yield from _mlp_problems(dlrm.dense_mlp, f"{path}.dense_mlp")
    hidden_units = dlrm.dense_mlp.hidden_units
    if hidden_units and len(dims) == 1 and hidden_units[-1] not in dims:
        yield (
            f"{path}.dense_mlp.hidden_units ends in {hidden_units[-1]}; must end in the"
            f" embedding_dim of the features of group 'sparse', which is {min(dims)}"
        )


def _tower_problems(model: model_pb2.ModelConfig) -> Iterator[str]:
    path = "model_config.multi_tower"
    if not model.multi_tower.towers:
        yield f"{path}.towers is empty; must have at least one tower"
    inputs = [tower.input for tower in model.multi_tower.towers]
    for index, tower in enumerate(model.multi_tower.towers):
        if tower.input in inputs[:index]:
            yield f"{path}.towers[{index}].input is {tower.input!r}, as in an earlier tower"
        if tower.HasField("mlp"):
            yield from _mlp_problems(tower.mlp, f"{path}.towers[{index}].mlp")
    yield from _mlp_problems(model.multi_tower.final, f"{path}.final")


def _task_tower_problems(
    model: model_pb2.ModelConfig, towers: Sequence[tower_pb2.TaskTower]
) -> Iterator[str]:
    path = f"model_config.{model.WhichOneof('model')}.task_towers"
    if not model.feature_groups:
        yield "model_config.feature_groups is empty; must have one group, of any name"
    if not towers:
        yield f"{path} is empty; must have at least one tower"
    names = [tower.tower_name for tower in towers]
    for index, tower in enumerate(towers):
        if not tower.tower_name:
            yield f"{path}[{index}].tower_name is not set"
        elif tower.tower_name in names[:index]:
            yield f"{path}[{index}].tower_name is {tower.tower_name!r}, as in an earlier tower"
        if tower.HasField("mlp"):
            yield from _mlp_problems(tower.mlp, f"{path}[{index}].mlp")


def _expert_problems(mmoe: multi_task_rank_pb2.MMoE) -> Iterator[str]:
    yield from _mlp_problems(mmoe.expert_mlp, "model_config.mmoe.expert_mlp")
    if mmoe.HasField("gate_mlp"):
        yield from _mlp_problems(mmoe.gate_mlp, "model_config.mmoe.gate_mlp")
    if mmoe.num_expert == 0:
        yield "model_config.mmoe.num_expert is 0; must be > 0"


def _dims(group: model_pb2.FeatureGroupConfig | None, features: Features) -> set[int]:
    names = group.feature_names if group is not None else ()
    found = [features[name] for name in names if name in features]
    return {feature.embedding_dim for feature in found if is_sparse(feature)}


def _dim_problems(
    model: model_pb2.ModelConfig, features: Features, name: str, *, only_sparse: bool
) -> Iterator[str]:
    """A group whose embeddings are multiplied with each other."""
    group = next((group for group in model.feature_groups if group.group_name == name), None)
    if group is None:
        return
    kind = model.WhichOneof("model")
    dims = _dims(group, features)
    if len(dims) > 1:
        yield f"group {name!r} has features of embedding_dim {sorted(dims)}; {kind} needs one size"
    known = [feature for feature in group.feature_names if feature in features]
    dense = [feature for feature in known if not is_sparse(features[feature])]
    if only_sparse and dense:
        yield f"group {name!r} has {dense}, which have no embeddings; {kind} needs them there"
    if known and len(dense) == len(known) and not only_sparse:
        yield f"group {name!r} has no feature with an embedding; {kind} needs at least one"


def _mlp_problems(mlp: module_pb2.MLP, path: str) -> Iterator[str]:
    units, dropout = list(mlp.hidden_units), list(mlp.dropout_ratio)
    if not units or 0 in units:
        yield f"{path}.hidden_units is {units}; must be sizes > 0, at least one"
    if len(dropout) not in (0, 1, len(units)):
        yield (
            f"{path}.dropout_ratio has {len(dropout)} entries; must have none, one,"
            f" or one for each of the {len(units)} hidden_units"
        )
    if not all(0 <= ratio < 1 for ratio in dropout):
        yield f"{path}.dropout_ratio is {[float(f'{x:g}') for x in dropout]}; must be in [0, 1)"
    if mlp.use_bn and mlp.use_ln:
        yield f"{path}.use_bn and {path}.use_ln are both true; at most one may be"
