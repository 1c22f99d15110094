"""A tower per task, all of them over the same features."""

from collections.abc import Sequence
from typing import Final

from torch import Tensor, nn

from tzrec_core.models.task_tower import TaskTower, TowerLayers
from tzrec_core.modules.feature_group import Concat, FeatureGroup


class SimpleMultiTask(nn.Module):
    """Tasks that share embeddings and nothing else: tower k gives ``TaskTower_k(group)``.

    Args:
        group: What all towers see.
        towers: At least one; names differ.
    """

    names: Final[list[str]]

    def __init__(self, *, group: FeatureGroup, towers: Sequence[TowerLayers]) -> None:
        super().__init__()
        self.names = [tower.name for tower in towers]
        self.concat = Concat(group)
        self.towers = nn.ModuleList(TaskTower(group.width, tower) for tower in towers)

    def forward(
        self, dense: list[Tensor], deep: list[Tensor], wide: list[Tensor]
    ) -> dict[str, Tensor]:
        """Returns [B, num_class] logits by the tower's name."""
        inputs = self.concat(dense, deep)
        logits: dict[str, Tensor] = {}
        for name, tower in zip(self.names, self.towers):  # noqa: B905 (TorchScript)
            logits[name] = tower(inputs)
        return logits
