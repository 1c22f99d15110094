"""Metrics of training, in which old rows fade."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import torch
import torch.distributed as dist
from torch import Tensor

from tzrec_core.metrics.exchange import own_rank
from tzrec_core.metrics.streaming import SumFormula


class Recent(Protocol):
    """The sums of a formula over the rows since the last decay step."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Adds the [B] or [B, C] predictions and [B] targets of a batch; no communication."""

    def sums(self) -> Tensor:
        """Returns the [size] sums of this rank's rows."""

    def restart(self, sums: Tensor) -> None:
        """Forgets the rows and begins with ``sums``, on whose device the state then is."""


class AddedBatches:
    """Adds batch after batch: for formulas whose sums over a batch are all they need of it."""

    def __init__(self, formula: SumFormula) -> None:
        self._add_up = formula.add_up
        self._sums = torch.zeros(formula.size, dtype=torch.float64)

    def update(self, preds: Tensor, target: Tensor) -> None:
        self._sums = self._sums + self._add_up(preds, target)

    def sums(self) -> Tensor:
        return self._sums

    def restart(self, sums: Tensor) -> None:
        self._sums = sums


class KeptRows:
    """Keeps the rows and adds them up together: for formulas of pairs across batches."""

    def __init__(self, formula: SumFormula) -> None:
        self._add_up = formula.add_up
        self._earlier = torch.zeros(formula.size, dtype=torch.float64)
        self._preds: list[Tensor] = []
        self._target: list[Tensor] = []

    def update(self, preds: Tensor, target: Tensor) -> None:
        self._preds.append(preds)
        self._target.append(target)

    def sums(self) -> Tensor:
        if not self._preds:
            return self._earlier
        return self._earlier + self._add_up(torch.cat(self._preds), torch.cat(self._target))

    def restart(self, sums: Tensor) -> None:
        self._earlier, self._preds, self._target = sums, [], []


class DecayedMetric:
    """A metric of the rows of training, of which old ones fade.

    A decay step, every ``decay_step`` updates, makes ``decayed = rate * decayed + (1 - rate) *
    recent``, the first one ``decayed = recent``, where ``recent`` are the formula's sums over the
    rows since the last decay step. The value is that of ``decayed``; before the first decay step
    that of the rows so far. Of AUC these are TorchEasyRec's two histograms. A mean comes out as
    ``rate * old value + (1 - rate) * new value`` if equally many rows came between decay steps;
    else every value has the weight of its rows.

    Sums are this rank's own. Adding them over ranks commutes with decaying, so they communicate
    only when the value is asked for, and ranks report what one rank with all rows would. An update
    is a step of training, with or without rows on this rank: all ranks decay together.
    """

    def __init__(
        self,
        formula: SumFormula,
        *,
        decay_rate: float,
        decay_step: int,
        recent: Callable[[SumFormula], Recent] = AddedBatches,
    ) -> None:
        self._formula = formula
        self.decay_rate = decay_rate
        self.decay_step = decay_step
        self._num_steps = 0
        self._recent = recent(formula)
        # Not zeros: a sum of zero is a value, too.
        self._decayed: Tensor | None = None
        self._zeros = torch.zeros(formula.size, dtype=torch.float64)

    def to(self, device: torch.device) -> None:
        """Moves the state to ``device``."""
        self._zeros = self._zeros.to(device)
        self._recent.restart(self._recent.sums().to(device))
        self._decayed = None if self._decayed is None else self._decayed.to(device)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes the [B] or [B, C] predictions and [B] targets of a step; no communication."""
        self._recent.update(preds, target)
        self._num_steps += 1
        if self._num_steps % self.decay_step == 0:
            self._decay()

    def compute(self) -> Tensor:
        """Returns the 0-d value; all ranks must call.

        Raises:
            ValueError: Predictions were NaN, or targets not what the metric takes.
        """
        sums = self._recent.sums() if self._decayed is None else self._decayed
        return self._formula.value(_over_ranks(sums))

    def state_dict(self) -> dict[str, Any]:
        """Returns the sums over all ranks in a form that survives JSON; all ranks must call."""
        decayed = None if self._decayed is None else _over_ranks(self._decayed).tolist()
        return {"decayed": decayed, "recent": _over_ranks(self._recent.sums()).tolist()}

    def load_state_dict(self, state: Mapping[str, Any] | None, *, num_steps: int) -> None:
        """Goes on from ``state``, of any number of ranks, or from nothing if it is None.

        Args:
            state: What ``state_dict`` has returned; the same on every rank.
            num_steps: Steps that training has taken, from which decay steps are counted.

        Raises:
            ValueError: It is the state of another metric.
        """
        self._num_steps = num_steps
        self._decayed = None
        if state is None:
            self._recent.restart(self._zeros)
            return
        self._recent.restart(self._own_share(state["recent"]))
        if state["decayed"] is not None:
            self._decayed = self._own_share(state["decayed"])

    def _own_share(self, sums: list[float]) -> Tensor:
        if len(sums) != self._formula.size:
            raise ValueError(f"a train metric has {self._formula.size} sums, not {len(sums)}")
        # Rank 0 takes over the past of all ranks: only what they add up to is ever looked at.
        return self._zeros.new_tensor(sums) if own_rank() == 0 else self._zeros

    def _decay(self) -> None:
        recent = self._recent.sums()
        if self._decayed is None:
            self._decayed = recent
        else:
            self._decayed = self.decay_rate * self._decayed + (1 - self.decay_rate) * recent
        self._recent.restart(self._zeros)


def _over_ranks(sums: Tensor) -> Tensor:
    if not dist.is_initialized():
        return sums
    total = sums.clone()
    dist.all_reduce(total)
    return total
