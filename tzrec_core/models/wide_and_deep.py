"""Wide & Deep (Cheng et al., DLRS 2016)."""

import torch
from torch import Tensor, nn

from tzrec_core.modules.feature_group import Concat, FeatureGroup, WideSum
from tzrec_core.modules.mlp import MLP, Layers


class WideAndDeep(nn.Module):
    """A linear model of the wide features beside an MLP over the deep ones.

    With ``final`` layers the logits are ``Linear(MLP([wide, deep]))``, without them
    ``sum(wide) + Linear(deep)``, the first the same for every class.

    Args:
        wide: The wide group.
        deep: The deep group.
        wide_embedding_dim: Dimension of the wide tables.
        deep_layers: The deep part.
        final_layers: The layers above both parts, or None.
        num_class: Number of logits.
    """

    def __init__(
        self,
        *,
        wide: FeatureGroup,
        deep: FeatureGroup,
        wide_embedding_dim: int,
        deep_layers: Layers,
        final_layers: Layers | None,
        num_class: int,
    ) -> None:
        super().__init__()
        self.wide = WideSum(wide, embedding_dim=wide_embedding_dim)
        self.concat = Concat(deep)
        self.deep = MLP(deep.width, deep_layers)
        self.final: MLP | None = None
        width = self.deep.out_features
        if final_layers is not None:
            self.final = MLP(wide_embedding_dim + width, final_layers)
            width = self.final.out_features
        self.output = nn.Linear(width, num_class)

    def forward(self, dense: list[Tensor], deep: list[Tensor], wide: list[Tensor]) -> Tensor:
        wide_part = self.wide(dense, wide)
        deep_part = self.deep(self.concat(dense, deep))
        if self.final is not None:
            deep_part = self.final(torch.cat([wide_part, deep_part], dim=1))
        logits: Tensor = self.output(deep_part)
        if self.final is None:
            logits = logits + wide_part.sum(dim=1, keepdim=True)
        return logits
