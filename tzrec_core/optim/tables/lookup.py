"""What a batch has looked up in tables, and from it the gradients of the rows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor
from torch.nn.functional import embedding_bag


class Pooling(Enum):
    """What becomes of the rows that one bag of ids looks up."""

    NONE = 0
    SUM = 1
    MEAN = 2


@dataclass(frozen=True)
class Lookup:
    """A batch's ids, looked up in one table or several.

    Attributes:
        ids: Those of the first feature before those of the second, [ids].
        lengths: How many of them each bag has, [features, B].
        weights: What each id's row is multiplied by before it is pooled, [ids]; None: 1.
        pooling: NONE returns rows as [ids, D], others as [B, features * D].
    """

    ids: Tensor
    lengths: Tensor
    weights: Tensor | None
    pooling: Pooling

    def split(self, nums_features: Sequence[int]) -> list["Lookup"]:
        """Returns the lookups of the first features, of those that follow, and so on."""
        lengths = self.lengths.split(list(nums_features))
        nums_ids = [int(part.sum()) for part in lengths]
        ids = self.ids.split(nums_ids)
        weights = [None] * len(ids) if self.weights is None else self.weights.split(nums_ids)
        return [
            Lookup(part_ids, part_lengths, part_weights, self.pooling)
            for part_ids, part_lengths, part_weights in zip(ids, lengths, weights, strict=True)
        ]

    def sources(self) -> Tensor:
        """Returns which row of the output's gradients, as [any, D], is each id's, [ids]."""
        if self.pooling == Pooling.NONE:
            return torch.arange(len(self.ids))
        num_features, batch_size = self.lengths.shape
        bags = torch.arange(self.lengths.numel()).view(batch_size, num_features).t()
        return bags.reshape(-1).repeat_interleave(self.lengths.reshape(-1))

    def factors(self) -> Tensor | None:
        """Returns what each id's row was multiplied by on the way to the output; None: 1."""
        if self.pooling != Pooling.MEAN or not bool((self.lengths > 1).any()):
            return self.weights
        lengths = self.lengths.reshape(-1)
        shares = lengths.float().reciprocal().repeat_interleave(lengths)
        return shares if self.weights is None else shares * self.weights


def gradients_by_row(
    rows: Tensor, sources: Tensor, factors: Tensor | None, gradients: Tensor, *, block: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yields each row once, with the sum of its gradients, at most ``block`` rows at a time.

    Rows ascend, and the gradients of a row are added in the order of its ids: equal arguments give
    sums that are equal to the last bit, whatever the block.

    Args:
        rows: What each id looked up, [ids].
        sources: Which of ``gradients`` it gets, [ids].
        factors: What that is multiplied by, [ids]; None: 1.
        gradients: Of the output, [any, D].
        block: Number of rows.
    """
    rows, order = rows.sort(stable=True)
    sources = sources[order]
    factors = None if factors is None else factors[order]
    distinct, counts = rows.unique_consecutive(return_counts=True)
    ends = counts.cumsum(0)
    starts = ends - counts
    for first in range(0, len(distinct), block):
        last = min(first + block, len(distinct))
        ids = slice(int(starts[first]), int(ends[last - 1]))
        # It adds up rows of ``gradients`` without a copy for every id, which index_add_ needs.
        sums = embedding_bag(
            sources[ids],
            gradients,
            starts[first:last] - ids.start,
            mode="sum",
            per_sample_weights=None if factors is None else factors[ids],
        )
        yield distinct[first:last], sums
