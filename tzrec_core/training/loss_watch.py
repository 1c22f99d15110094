"""Adds up the losses of training, and finds the step and the rows where one is not finite."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from tzrec_core.distributed.ranks import Ranks

# Looking at a loss waits for the device, and ranks have to agree on what they saw: so many steps
# may go by until then.
_MAX_UNSEEN = 100


class UsedRows(NamedTuple):
    """What a step of this rank was made with.

    Attributes:
        step: Steps completed with it.
        epoch: Epochs completed before it.
        rows: By the index of a window of the data the first row and one past the last.
    """

    step: int
    epoch: int
    rows: Mapping[int, tuple[int, int]]


class LossWatch:
    """Sums of the losses of all ranks' steps since ``restart``; every rank adds every step.

    Args:
        ranks: From ``process_group``.
        where: Says in words where rows are, given their epoch and ``UsedRows.rows``.
    """

    def __init__(
        self, ranks: Ranks, where: Callable[[int, Mapping[int, tuple[int, int]]], str]
    ) -> None:
        self._ranks = ranks
        self._where = where
        can_look = ranks.world_size == 1 and ranks.device.type == "cpu"
        self._max_unseen = 1 if can_look else _MAX_UNSEEN
        self.restart()

    def restart(self) -> None:
        """Forgets all steps."""
        self._num_steps = 0
        self._sums: dict[str, float] = {}
        self._unseen: list[tuple[UsedRows, Tensor]] = []

    def add(self, losses: Mapping[str, Tensor], used: UsedRows) -> None:
        """Adds the 0-d losses of a step; waits for the device and other ranks once in a while.

        Raises:
            FloatingPointError: See ``check``.
        """
        if self._sums.keys() != losses.keys():  # at first, or restored with those of another config
            self.restart()
            self._sums = dict.fromkeys(losses, 0.0)
        self._num_steps += 1
        self._unseen.append((used, torch.stack(list(losses.values()))))
        if len(self._unseen) >= self._max_unseen:
            self.check()

    def check(self) -> None:
        """Checks the losses of all steps; call it on every rank.

        Raises:
            FloatingPointError: One is NaN or infinite; on every rank, with the first such step.
        """
        if not self._unseen:
            return
        unseen, self._unseen = self._unseen, []
        values = torch.stack([losses for _, losses in unseen]).double().cpu()
        are_finite = values.isfinite().all(1)
        first = len(unseen) if are_finite.all() else int(are_finite.int().argmin())
        first_of_all = torch.tensor(first)
        if self._ranks.world_size > 1:
            dist.all_reduce(first_of_all, dist.ReduceOp.MIN, group=self._ranks.control)
        if int(first_of_all) < len(unseen):
            used, _ = unseen[int(first_of_all)]
            self._fail(used, values[int(first_of_all)])
        # One after the other: then it makes no difference when they are looked at.
        for of_step in values.tolist():
            for name, value in zip(self._sums, of_step, strict=True):
                self._sums[name] += value

    def means(self) -> dict[str, float]:
        """Returns every loss over the rows of all ranks, averaged over the steps, on every rank.

        Raises:
            FloatingPointError: See ``check``.
        """
        self.check()
        sums = torch.tensor(list(self._sums.values()), dtype=torch.float64)
        dist.all_reduce(sums, group=self._ranks.control)
        # A rank's loss is its part of the mean over all rows, times the number of ranks.
        means = sums / (self._ranks.world_size * max(self._num_steps, 1))
        return dict(zip(self._sums, means.tolist(), strict=True))

    def state(self) -> list[dict[str, Any]]:
        """Returns what ``restore`` needs, in a form that survives JSON: of all ranks, all call.

        Raises:
            FloatingPointError: See ``check``.
        """
        self.check()
        mine = {"num_steps": self._num_steps, "losses": dict(self._sums)}
        of_ranks: list[Any] = [None] * self._ranks.world_size
        dist.all_gather_object(of_ranks, mine, group=self._ranks.control)
        return of_ranks

    def restore(self, state: Sequence[dict[str, Any]]) -> None:
        """Goes on after the steps of a ``state``, of any number of ranks."""
        self.restart()
        self._num_steps = state[0]["num_steps"]
        sums = {name: [rank["losses"][name] for rank in state] for name in state[0]["losses"]}
        if len(state) == self._ranks.world_size:
            self._sums = {name: of_ranks[self._ranks.rank] for name, of_ranks in sums.items()}
        else:
            share = self._ranks.world_size / len(state) if self._ranks.rank == 0 else 0.0
            self._sums = {name: sum(of_ranks) * share for name, of_ranks in sums.items()}

    def _fail(self, used: UsedRows, losses: Tensor) -> None:
        wrong = [
            f"the loss {name} became {value}"
            for name, value in zip(self._sums, losses.tolist(), strict=True)
            if not math.isfinite(value)
        ]
        rows = self._where(used.epoch, used.rows) if used.rows else "no rows of its own"
        of_ranks: list[Any] = [None] * self._ranks.world_size
        mine = (self._ranks.rank, wrong[0], rows) if wrong else None
        dist.all_gather_object(of_ranks, mine, group=self._ranks.control)
        found = [report for report in of_ranks if report is not None]
        rank, what, rows = found[0]
        on_ranks = f" on rank {rank}" if self._ranks.world_size > 1 else ""
        others = f", and on {len(found) - 1} other ranks" if len(found) > 1 else ""
        raise FloatingPointError(
            f"{what} at step {used.step}, in epoch {used.epoch}{on_ranks}, of the batch with {rows}"
            f"{others}"
        )
