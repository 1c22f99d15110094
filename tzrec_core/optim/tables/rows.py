"""Tables on a CPU whose rows are updated by a rule of ours."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise

import torch
from torch import Tensor

from tzrec_core.optim.tables.lookup import Lookup, gradients_by_row

_BLOCK = 2**16
"""Weights to update at a time: with what belongs to them, so many stay in a core's cache."""


@dataclass(frozen=True)
class RowRule:
    """How rows are updated.

    Attributes:
        update: One of ``updates``, with all arguments but ``lr`` and ``step`` bound.
        states: The rows' own numbers in the order of its arguments: their name in TorchRec, and
            whether there is one a row instead of one a weight.
        is_counted: The formula contains ``step``.
    """

    update: Callable[..., None]
    states: tuple[tuple[str, bool], ...]
    is_counted: bool = False


class TableRows:
    """Tables of equal width that lie side by side in FBGEMM's memory, as one matrix.

    What the rule keeps of a row is side by side, too: it is fetched and stored at one go.
    """

    def __init__(
        self,
        rule: RowRule,
        *,
        nums_rows: Sequence[int],
        dim: int,
        tables_of_features: Sequence[int],
        start: int,
    ) -> None:
        """Makes the tables' states.

        Args:
            rule: Of all the tables.
            nums_rows: Of each table.
            dim: Of each row.
            tables_of_features: Which of the tables each feature looks up; ascending.
            start: Where FBGEMM's memory of the first table begins.
        """
        self.dim = dim
        self.num_features = len(tables_of_features)
        self._rule = rule
        self._nums_rows = list(nums_rows)
        first_rows = list(accumulate(nums_rows, initial=0))
        self._first_rows = torch.tensor([first_rows[table] for table in tables_of_features])
        self._memory = slice(start, start + first_rows[-1] * dim)
        widths = [1 if by_row else dim for _, by_row in rule.states]
        self._columns = list(pairwise(accumulate(widths, initial=0)))
        self._states = torch.zeros(first_rows[-1], sum(widths))

    def named_states(self) -> list[dict[str, Tensor]]:
        """Returns for each table its states by name, sharing memory."""
        names = [name for name, _ in self._rule.states]
        return [
            dict(zip(names, self._columns_of(states), strict=True))
            for states in self._states.split(self._nums_rows)
        ]

    def update(
        self, memory: Tensor, lookup: Lookup, gradients: Tensor, *, lr: float, step: int
    ) -> None:
        """Updates the rows that were looked up.

        Args:
            memory: FBGEMM's, [weights of all tables].
            lookup: Of this object's features.
            gradients: Of what it returned.
            lr: Learning rate.
            step: Number of this update, from 1.
        """
        if len(lookup.ids) == 0:
            return
        matrix = memory[self._memory].view(-1, self.dim)
        rows = lookup.ids + self._first_rows.repeat_interleave(lookup.lengths.sum(dim=1))
        for distinct, sums in gradients_by_row(
            rows,
            lookup.sources(),
            lookup.factors(),
            gradients.reshape(-1, self.dim),
            block=max(1, _BLOCK // self.dim),
        ):
            weights, states = (
                matrix.index_select(0, distinct),
                self._states.index_select(0, distinct),
            )
            self._rule.update(weights, sums, *self._columns_of(states), lr=lr, step=step)
            matrix.index_copy_(0, distinct, weights)
            self._states.index_copy_(0, distinct, states)

    def _columns_of(self, states: Tensor) -> list[Tensor]:
        return [
            states[:, start] if by_row else states[:, start:stop]
            for (_, by_row), (start, stop) in zip(self._rule.states, self._columns, strict=True)
        ]
