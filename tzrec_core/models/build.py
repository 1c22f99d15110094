"""Builds the model that a config describes."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Final

import torch
from torch import nn

from tzrec_core.features.schema import Feature
from tzrec_core.models.deepfm import DeepFM
from tzrec_core.models.dlrm import DLRM
from tzrec_core.models.mmoe import MMoE
from tzrec_core.models.multi_tower import MultiTower
from tzrec_core.models.rank_model import Head, RankModel
from tzrec_core.models.simple_multi_task import SimpleMultiTask
from tzrec_core.models.task_tower import TowerLayers
from tzrec_core.models.wide_and_deep import WideAndDeep
from tzrec_core.modules.embedding import PooledEmbeddings
from tzrec_core.modules.feature_group import FeatureGroup
from tzrec_core.modules.mlp import Layers
from tzrec_core.protos import model_pb2, module_pb2, rank_model_pb2, tower_pb2

_DEEP: Final = model_pb2.FeatureGroupType.DEEP
_WIDE: Final = model_pb2.FeatureGroupType.WIDE


def build_model(
    model_config: model_pb2.ModelConfig, features: Sequence[Feature], device: torch.device
) -> RankModel:
    """Builds the model of ``model_config``.

    Args:
        model_config: Feature groups and network.
        features: All features in schema order, those that the model does not use included.
        device: Where the embedding tables are created, ``meta`` if they are to be sharded. The
            network is created on the CPU.

    Raises:
        ValueError: A group is missing or of the wrong type, a feature does not exist, or sizes do
            not fit.
    """
    dense = [feature for feature in features if not feature.is_sparse]
    deep = _sparse_members(model_config, features, _DEEP)
    wide = [
        _with_wide_table(feature, model_config)
        for feature in _sparse_members(model_config, features, _WIDE)
    ]
    network = _network(
        model_config,
        deep=_Groups(model_config, _DEEP, dense=dense, sparse=deep),
        wide=_Groups(model_config, _WIDE, dense=dense, sparse=wide),
    )
    head = Head(
        network,
        dense_widths=[feature.width for feature in dense],
        deep_features=[feature.name for feature in deep],
        wide_features=[feature.name for feature in wide],
        weighted_means=sorted({f.name for f in (*deep, *wide) if _is_weighted_mean(f)}),
    )
    return RankModel(PooledEmbeddings(deep, wide, device=device), head)


class _Groups:
    """The feature groups of one type by name."""

    def __init__(
        self,
        model_config: model_pb2.ModelConfig,
        group_type: model_pb2.FeatureGroupType,
        *,
        dense: Sequence[Feature],
        sparse: Sequence[Feature],
    ) -> None:
        self._type = model_pb2.FeatureGroupType.Name(group_type)
        self._by_name = {
            group.group_name: _resolve(group, dense, sparse)
            for group in model_config.feature_groups
            if group.group_type == group_type
        }

    def __getitem__(self, name: str) -> FeatureGroup:
        if name not in self._by_name:
            raise ValueError(
                f"the model needs a {self._type} feature group {name!r}, "
                f"the {self._type} groups are {list(self._by_name)}"
            )
        return self._by_name[name]

    def get(self, name: str) -> FeatureGroup | None:
        return self._by_name.get(name)

    def only(self) -> FeatureGroup:
        if len(self._by_name) != 1:
            raise ValueError(
                f"the model needs one {self._type} feature group, "
                f"the {self._type} groups are {list(self._by_name)}"
            )
        return next(iter(self._by_name.values()))


def _network(model_config: model_pb2.ModelConfig, *, deep: _Groups, wide: _Groups) -> nn.Module:
    num_class = model_config.num_class
    match model_config.WhichOneof("model"):
        case "deepfm":
            deepfm = model_config.deepfm
            return DeepFM(
                wide=wide["wide"],
                fm=deep.get("fm"),
                deep=deep["deep"],
                wide_embedding_dim=deepfm.wide_embedding_dim,
                deep_layers=_layers(deepfm.deep, "deepfm.deep"),
                final_layers=_final_layers(deepfm),
                num_class=num_class,
            )
        case "wide_and_deep":
            wide_and_deep = model_config.wide_and_deep
            return WideAndDeep(
                wide=wide["wide"],
                deep=deep["deep"],
                wide_embedding_dim=wide_and_deep.wide_embedding_dim,
                deep_layers=_layers(wide_and_deep.deep, "wide_and_deep.deep"),
                final_layers=_final_layers(wide_and_deep),
                num_class=num_class,
            )
        case "multi_tower":
            return MultiTower(
                towers=[
                    (deep[tower.input], _layers(tower.mlp, f"tower {tower.input!r}"))
                    if tower.HasField("mlp")
                    else (deep[tower.input], None)
                    for tower in model_config.multi_tower.towers
                ],
                final_layers=_layers(model_config.multi_tower.final, "multi_tower.final"),
                num_class=num_class,
            )
        case "dlrm":
            dlrm, dense = model_config.dlrm, deep.get("dense")
            dense_layers = _layers(dlrm.dense_mlp, "dlrm.dense_mlp")
            return DLRM(
                dense=None if dense is None else (dense, dense_layers),
                sparse=deep["sparse"],
                arch_with_sparse=dlrm.arch_with_sparse,
                final_layers=_layers(dlrm.final, "dlrm.final"),
                num_class=num_class,
            )
        case "simple_multi_task":
            return SimpleMultiTask(
                group=deep.only(), towers=_towers(model_config.simple_multi_task.task_towers)
            )
        case "mmoe":
            mmoe = model_config.mmoe
            return MMoE(
                group=deep.only(),
                expert_layers=_layers(mmoe.expert_mlp, "mmoe.expert_mlp"),
                gate_layers=(
                    _layers(mmoe.gate_mlp, "mmoe.gate_mlp") if mmoe.HasField("gate_mlp") else None
                ),
                num_experts=mmoe.num_expert,
                towers=_towers(mmoe.task_towers),
            )
        case kind:
            kinds = [field.name for field in model_config.DESCRIPTOR.oneofs_by_name["model"].fields]
            raise ValueError(f"model_config must set one of {', '.join(kinds)}, got {kind}")


def _final_layers(config: rank_model_pb2.DeepFM | rank_model_pb2.WideAndDeep) -> Layers | None:
    return _layers(config.final, "final") if config.HasField("final") else None


def _towers(configs: Sequence[tower_pb2.TaskTower]) -> list[TowerLayers]:
    names = [config.tower_name for config in configs]
    if not names or not all(names) or len(set(names)) != len(names):
        raise ValueError(f"task_towers must have tower_names that differ, got {names}")
    return [
        TowerLayers(
            name=config.tower_name,
            layers=(
                _layers(config.mlp, f"tower {config.tower_name!r}")
                if config.HasField("mlp")
                else None
            ),
            num_class=config.num_class,
        )
        for config in configs
    ]


def _layers(config: module_pb2.MLP, name: str) -> Layers:
    return Layers(
        name=name,
        hidden_units=tuple(config.hidden_units),
        activation=config.activation,
        dropout_ratio=tuple(config.dropout_ratio),
        use_bn=config.use_bn,
        use_ln=config.use_ln,
        bias=config.bias,
    )


def _sparse_members(
    model_config: model_pb2.ModelConfig, features: Iterable[Feature], group_type: int
) -> list[Feature]:
    names = {
        name
        for group in model_config.feature_groups
        if group.group_type == group_type
        for name in group.feature_names
    }
    return [feature for feature in features if feature.is_sparse and feature.name in names]


def _is_weighted_mean(feature: Feature) -> bool:
    return feature.weighted and feature.table is not None and feature.table.pooling == "mean"


def _with_wide_table(feature: Feature, model_config: model_pb2.ModelConfig) -> Feature:
    """Returns the feature as wide groups see it: with a small table beside its own."""
    config = getattr(model_config, model_config.WhichOneof("model") or "")
    table = feature.table
    assert table is not None
    wide_table = dataclasses.replace(
        table,
        name=f"{table.name}_wide",
        embedding_dim=config.wide_embedding_dim,
        init_fn=config.wide_init_fn or table.init_fn,
    )
    return dataclasses.replace(feature, table=wide_table)


def _resolve(
    group: model_pb2.FeatureGroupConfig, dense: Sequence[Feature], sparse: Sequence[Feature]
) -> FeatureGroup:
    dense_at = {feature.name: index for index, feature in enumerate(dense)}
    sparse_at = {feature.name: index for index, feature in enumerate(sparse)}
    for name in group.feature_names:
        if name not in dense_at and name not in sparse_at:
            raise ValueError(f"feature group {group.group_name!r}: there is no feature {name!r}")
    dense_members = [dense_at[name] for name in group.feature_names if name in dense_at]
    sparse_members = [sparse_at[name] for name in group.feature_names if name in sparse_at]
    return FeatureGroup(
        name=group.group_name,
        dense=dense_members,
        dense_widths=[dense[i].width for i in dense_members],
        sparse=sparse_members,
        sparse_dims=[table.embedding_dim for i in sparse_members if (table := sparse[i].table)],
    )
