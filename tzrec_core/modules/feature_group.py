"""A feature group, resolved to positions in the lists of tensors that a network takes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class FeatureGroup:
    """The members of one feature group.

    Attributes:
        name: Name in the config, for errors.
        dense: Positions of the dense members among the network's dense inputs.
        dense_widths: Their widths.
        sparse: Positions of the sparse members among the network's deep (or wide) inputs.
        sparse_dims: Their embedding dimensions.
    """

    name: str
    dense: Sequence[int] = ()
    dense_widths: Sequence[int] = ()
    sparse: Sequence[int] = ()
    sparse_dims: Sequence[int] = ()

    @property
    def width(self) -> int:
        """Numbers per row of all members together."""
        return sum(self.dense_widths) + sum(self.sparse_dims)

    def common_dim(self) -> int:
        """Returns the embedding dimension of the sparse members, of which there is at least one.

        Raises:
            ValueError: They differ, or there are none.
        """
        dims = sorted(set(self.sparse_dims))
        if len(dims) != 1:
            raise ValueError(
                f"the sparse features of group {self.name!r} must have one embedding_dim, "
                f"got {dims or 'no sparse feature'}"
            )
        return dims[0]


class Concat(nn.Module):
    """Puts the members of one group side by side: dense ones first, [B, width]."""

    dense: Final[list[int]]
    sparse: Final[list[int]]

    def __init__(self, group: FeatureGroup) -> None:
        super().__init__()
        self.dense = list(group.dense)
        self.sparse = list(group.sparse)

    def forward(self, dense: list[Tensor], sparse: list[Tensor]) -> Tensor:
        members = [dense[i] for i in self.dense] + [sparse[i] for i in self.sparse]
        return torch.cat(members, dim=1)


class WideSum(nn.Module):
    """Sum of a wide group's embeddings, and of a bias-free linear map of its dense members.

    Args:
        group: The wide group; its sparse members are positions among the wide inputs.
        embedding_dim: Dimension of every wide table.
    """

    dense: Final[list[int]]
    sparse: Final[list[int]]

    def __init__(self, group: FeatureGroup, *, embedding_dim: int) -> None:
        super().__init__()
        self.dense = list(group.dense)
        self.sparse = list(group.sparse)
        width = sum(group.dense_widths)
        self.linear = nn.Linear(width, embedding_dim, bias=False) if width else None

    def forward(self, dense: list[Tensor], wide: list[Tensor]) -> Tensor:
        """Returns [B, embedding_dim]."""
        terms = [wide[i] for i in self.sparse]
        if self.linear is not None:
            terms.append(self.linear(torch.cat([dense[i] for i in self.dense], dim=1)))
        return torch.stack(terms).sum(dim=0)
