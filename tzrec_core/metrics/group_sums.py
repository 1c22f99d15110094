"""A metric of each group of rows, and what the groups add up to."""

import dataclasses
import math
from dataclasses import dataclass

import torch
from torch import Tensor

from tzrec_core.metrics.one_thread import one_thread


@dataclass(frozen=True)
class GroupSums:
    """Sums over groups, such as users, of which some may have no value of the metric.

    Sums of disjoint sets of groups add up to those of all: ranks, or partitions on disk, each
    compute theirs over whole groups.

    Attributes:
        weighted_values: Sum of weight_g * value_g over the groups that have a value.
        weights: Sum of weight_g over the same.
        num_groups_used: Groups that have a value.
        num_groups: Groups of a known key.
        num_rows_used: Rows of the groups that have a value.
        num_rows: All rows, also those whose key is ``NULL_ID``, which are in no group.
    """

    weighted_values: float
    weights: float
    num_groups_used: int
    num_groups: int
    num_rows_used: int
    num_rows: int

    @property
    def value(self) -> float:
        """The weighted mean over groups, NaN if none has a value."""
        return _ratio(self.weighted_values, self.weights)

    @property
    def group_coverage(self) -> float:
        """The share of groups that have a value, NaN if there are none."""
        return _ratio(self.num_groups_used, self.num_groups)

    @property
    def row_coverage(self) -> float:
        """The share of all rows that are in a group with a value, NaN if there are none."""
        return _ratio(self.num_rows_used, self.num_rows)

    def __add__(self, other: "GroupSums") -> "GroupSums":
        """Returns the sums of this set of groups and of a disjoint one."""
        return GroupSums.from_tensor(self.to_tensor() + other.to_tensor())

    def to_tensor(self) -> Tensor:
        """Returns the sums as [6] float64, in which numbers of rows are exact to 2^53."""
        return torch.tensor(dataclasses.astuple(self), dtype=torch.float64)

    @classmethod
    def from_tensor(cls, sums: Tensor) -> "GroupSums":
        """Takes back what ``to_tensor`` gave, or a sum of such."""
        weighted_values, weights, *counts = sums.tolist()
        return cls(weighted_values, weights, *map(int, counts))


@dataclass(frozen=True)
class GroupValues:
    """A metric of each group of a known key.

    Attributes:
        values: [G] float64, NaN where a group has no value.
        weights: [G] float64, 0 where a group has no value.
        sizes: [G] int64 rows of each group.
        num_rows: All rows, also those whose key is ``NULL_ID``, which are in no group.
    """

    values: Tensor
    weights: Tensor
    sizes: Tensor
    num_rows: int

    @one_thread()
    def add_up(self) -> GroupSums:
        """Returns what the groups add to the metric of all groups."""
        used = self.weights > 0
        return GroupSums(
            weighted_values=(self.weights * self.values)[used].sum().item(),
            weights=self.weights.sum().item(),
            num_groups_used=int(used.sum()),
            num_groups=len(used),
            num_rows_used=int(self.sizes[used].sum()),
            num_rows=self.num_rows,
        )


def _ratio(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
