"""Multi-gate mixture of experts (Ma et al., KDD 2018)."""

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from tzrec_core.models.task_tower import TaskTower, TowerLayers
from tzrec_core.modules.experts import MixtureOfExperts
from tzrec_core.modules.feature_group import Concat, FeatureGroup
from tzrec_core.modules.mlp import Layers


class MMoE(nn.Module):
    """Experts over one group, and per task a gate and a tower: ``TaskTower_k(mixture_k)``.

    Args:
        group: What experts and gates see.
        expert_layers: The layers of each expert.
        gate_layers: The layers below each gate's linear map, or None.
        num_experts: At least 1.
        towers: At least one; names differ.
    """

    names: Final[list[str]]

    def __init__(
        self,
        *,
        group: FeatureGroup,
        expert_layers: Layers,
        gate_layers: Layers | None,
        num_experts: int,
        towers: Sequence[TowerLayers],
    ) -> None:
        super().__init__()
        self.names = [tower.name for tower in towers]
        self.concat = Concat(group)
        self.mixture = MixtureOfExperts(
            group.width,
            expert_layers=expert_layers,
            gate_layers=gate_layers,
            num_experts=num_experts,
            num_tasks=len(towers),
        )
        self.towers = nn.ModuleList(TaskTower(self.mixture.out_features, tower) for tower in towers)

    def forward(
        self, dense: list[Tensor], deep: list[Tensor], wide: list[Tensor]
    ) -> dict[str, Tensor]:
        """Returns [B, num_class] logits by the tower's name."""
        mixtures = self.mixture(self.concat(dense, deep))
        logits: dict[str, Tensor] = {}
        for index, tower in enumerate(self.towers):
            logits[self.names[index]] = tower(mixtures[index])
        return logits
