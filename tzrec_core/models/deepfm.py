"""DeepFM (Guo et al., IJCAI 2017)."""

from typing import Final

import torch
from torch import Tensor, nn

from tzrec_core.modules.feature_group import Concat, FeatureGroup, WideSum
from tzrec_core.modules.interaction import factorization_machine
from tzrec_core.modules.mlp import MLP, Layers


class DeepFM(nn.Module):
    """Wide part, factorization machine and deep part over the same features.

    - wide: the sum of the wide embeddings, [B, wide_embedding_dim];
    - fm: the pairwise interactions of the group's embeddings, [B, dim];
    - deep: an MLP over the deep group.

    With ``final`` layers the logits are ``Linear(MLP([wide, fm, deep]))``, without them
    ``sum(wide) + sum(fm) + Linear(deep)``, the first two the same for every class.

    Args:
        wide: The wide group.
        fm: Group whose sparse members enter the factorization machine; None for the deep group.
        deep: The deep group.
        wide_embedding_dim: Dimension of the wide tables.
        deep_layers: The deep part.
        final_layers: The layers above all three parts, or None.
        num_class: Number of logits.

    Raises:
        ValueError: The sparse members of the fm group differ in dimension, or there are none.
    """

    fm_members: Final[list[int]]
    deep_dense: Final[list[int]]

    def __init__(
        self,
        *,
        wide: FeatureGroup,
        fm: FeatureGroup | None,
        deep: FeatureGroup,
        wide_embedding_dim: int,
        deep_layers: Layers,
        final_layers: Layers | None,
        num_class: int,
    ) -> None:
        super().__init__()
        fm_dim = (fm or deep).common_dim()
        self.fm_dim = fm_dim
        self.fm_members = list((fm or deep).sparse)
        self.deep_dense = list(deep.dense)
        self.has_one_group = self.fm_members == list(deep.sparse)
        self.wide = WideSum(wide, embedding_dim=wide_embedding_dim)
        self.concat = Concat(deep)
        self.deep = MLP(deep.width, deep_layers)
        self.final: MLP | None = None
        width = self.deep.out_features
        if final_layers is not None:
            self.final = MLP(wide_embedding_dim + fm_dim + width, final_layers)
            width = self.final.out_features
        self.output = nn.Linear(width, num_class)

    def forward(self, dense: list[Tensor], deep: list[Tensor], wide: list[Tensor]) -> Tensor:
        wide_part = self.wide(dense, wide)
        embeddings = torch.cat([deep[i] for i in self.fm_members], dim=1)
        fm_part = factorization_machine(embeddings.unflatten(1, [-1, self.fm_dim]))
        if self.has_one_group:
            # Copied once for both parts, and so are the gradients.
            deep_input = torch.cat([dense[i] for i in self.deep_dense] + [embeddings], dim=1)
        else:
            deep_input = self.concat(dense, deep)
        deep_part = self.deep(deep_input)
        if self.final is not None:
            deep_part = self.final(torch.cat([wide_part, fm_part, deep_part], dim=1))
        logits: Tensor = self.output(deep_part)
        if self.final is None:
            logits = logits + torch.cat([wide_part, fm_part], dim=1).sum(dim=1, keepdim=True)
        return logits
