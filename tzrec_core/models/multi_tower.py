"""Several towers, one per feature group, under one network."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from tzrec_core.modules.feature_group import Concat, FeatureGroup
from tzrec_core.modules.mlp import MLP, Layers


class MultiTower(nn.Module):
    """``Linear(MLP([tower_1, tower_2, ...]))``; a tower is an MLP over one group, or the group.

    Args:
        towers: Each tower's group and its layers, None for the group as it is.
        final_layers: The layers above the towers.
        num_class: Number of logits.
    """

    def __init__(
        self,
        *,
        towers: Sequence[tuple[FeatureGroup, Layers | None]],
        final_layers: Layers,
        num_class: int,
    ) -> None:
        super().__init__()
        self.concats = nn.ModuleList(Concat(group) for group, _ in towers)
        self.towers = nn.ModuleList()
        width = 0
        for group, layers in towers:
            tower = nn.Identity() if layers is None else MLP(group.width, layers)
            width += tower.out_features if isinstance(tower, MLP) else group.width
            self.towers.append(tower)
        self.final = MLP(width, final_layers)
        self.output = nn.Linear(self.final.out_features, num_class)

    def forward(self, dense: list[Tensor], deep: list[Tensor], wide: list[Tensor]) -> Tensor:
        outputs: list[Tensor] = []
        for concat, tower in zip(self.concats, self.towers):  # noqa: B905 (TorchScript)
            outputs.append(tower(concat(dense, deep)))
        logits: Tensor = self.output(self.final(torch.cat(outputs, dim=1)))
        return logits
