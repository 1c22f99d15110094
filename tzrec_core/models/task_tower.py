"""The part of a network that belongs to one of several tasks."""

from dataclasses import dataclass

from torch import Tensor, nn

from tzrec_core.modules.mlp import MLP, Layers


@dataclass(frozen=True)
class TowerLayers:
    """A task's tower: everything but its input.

    Attributes:
        name: Of the tower; its logits and all that is made of them are known by it.
        layers: The layers below the output, or None.
        num_class: Number of logits.
    """

    name: str
    layers: Layers | None
    num_class: int


class TaskTower(nn.Module):
    """``Linear(MLP(x))``, or ``Linear(x)``: [B, in_features] to [B, num_class] logits."""

    def __init__(self, in_features: int, tower: TowerLayers) -> None:
        """Raises ValueError for layers that cannot be built."""
        super().__init__()
        self.mlp: MLP | None = None
        if tower.layers is not None:
            self.mlp = MLP(in_features, tower.layers)
            in_features = self.mlp.out_features
        self.output = nn.Linear(in_features, tower.num_class)

    def forward(self, inputs: Tensor) -> Tensor:
        if self.mlp is not None:
            inputs = self.mlp(inputs)
        logits: Tensor = self.output(inputs)
        return logits
