"""DLRM (Naumov et al. 2019, arXiv:1906.00091)."""

import torch
from torch import Tensor, nn

from tzrec_core.modules.feature_group import Concat, FeatureGroup
from tzrec_core.modules.interaction import DotInteraction
from tzrec_core.modules.mlp import MLP, Layers


class DLRM(nn.Module):
    """Dot products among the embeddings and an MLP of the dense features.

    The logits are ``Linear(MLP([dot products, dense vector, embeddings]))``, the last only with
    ``arch_with_sparse``; without a dense group there is no dense vector.

    Args:
        dense: The dense group and its layers, or None. The layers' last size must be the
            embedding dimension.
        sparse: The sparse group.
        arch_with_sparse: Whether the embeddings themselves enter the final MLP.
        final_layers: The layers above the interaction.
        num_class: Number of logits.

    Raises:
        ValueError: The embeddings and the dense vector are not all of one size, or the sparse
            group has a dense feature.
    """

    def __init__(
        self,
        *,
        dense: tuple[FeatureGroup, Layers] | None,
        sparse: FeatureGroup,
        arch_with_sparse: bool,
        final_layers: Layers,
        num_class: int,
    ) -> None:
        super().__init__()
        dim = sparse.common_dim()
        if sparse.dense:
            raise ValueError(f"group {sparse.name!r} of dlrm must have sparse features only")
        self.concat: Concat | None = None
        self.dense_mlp: MLP | None = None
        if dense is not None:
            group, layers = dense
            self.concat = Concat(group)
            self.dense_mlp = MLP(group.width, layers)
            if self.dense_mlp.out_features != dim:
                raise ValueError(
                    f"dense_mlp must end with the embedding_dim of group {sparse.name!r}, {dim}, "
                    f"got hidden_units {list(layers.hidden_units)}"
                )
        self.sparse = list(sparse.sparse)
        self.arch_with_sparse = arch_with_sparse
        num_vectors = len(self.sparse) + (dense is not None)
        self.interaction = DotInteraction(num_vectors)
        as_they_are = num_vectors if arch_with_sparse else num_vectors - len(self.sparse)
        self.final = MLP(self.interaction.out_features + as_they_are * dim, final_layers)
        self.output = nn.Linear(self.final.out_features, num_class)

    def forward(self, dense: list[Tensor], deep: list[Tensor], wide: list[Tensor]) -> Tensor:
        vectors: list[Tensor] = []
        if self.concat is not None and self.dense_mlp is not None:
            vectors.append(self.dense_mlp(self.concat(dense, deep)))
        num_dense = len(vectors)
        vectors += [deep[i] for i in self.sparse]
        stacked = torch.stack(vectors, dim=1)
        # Stacked vectors side by side: all of them, or the dense one, which comes first.
        as_they_are = stacked if self.arch_with_sparse else stacked[:, :num_dense]
        joint = torch.cat([self.interaction(stacked), as_they_are.flatten(1)], dim=1)
        logits: Tensor = self.output(self.final(joint))
        return logits
