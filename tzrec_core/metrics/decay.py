"""Metrics of training, in which old rows fade."""

from typing import Protocol

import torch
from torch import Tensor
from torchmetrics import Metric

from tzrec_core.metrics.auc import auc_of_bins, count_by_bin


class Decaying(Protocol):
    """A metric whose past can fade."""

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Takes [B] predictions and targets."""

    def decay(self, rate: float) -> None:
        """Weights what came before the last decay by ``rate``, and what came since by the rest."""

    def compute(self) -> Tensor:
        """Returns the value as of the last decay, or so far if there was none; all ranks call."""

    def to(self, device: torch.device) -> object:
        """Moves the state."""


class DecayAUC(Metric):
    """Binned AUC in which rows fade with each decay step.

    Two histograms: ``decayed`` and what has come since, ``recent``. A decay step makes
    ``decayed = rate * decayed + (1 - rate) * recent``, the first one ``decayed = recent``. AUC is
    computed from ``decayed``, before the first decay step from ``recent``. Both belong to this
    rank; ranks are summed when computing, which decaying commutes with.
    """

    higher_is_better = True
    thresholds: Tensor
    decayed: Tensor
    recent: Tensor

    def __init__(self, *, num_thresholds: int) -> None:
        super().__init__()
        self.register_buffer("thresholds", torch.linspace(0, 1, num_thresholds), persistent=False)
        # float64 keeps counts exact and lets old ones fade without rounding to nothing. A tensor
        # each: a new metric's states are the defaults themselves, not copies of them.
        for state in ("decayed", "recent"):
            counts = torch.zeros(num_thresholds + 2, 3, dtype=torch.float64)
            self.add_state(state, counts, dist_reduce_fx="sum")
        self.num_decays = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.recent += count_by_bin(preds, target, self.thresholds)

    def decay(self, rate: float) -> None:
        """Lets the past fade; call it equally often on every rank."""
        if self.num_decays == 0:
            self.decayed = self.recent
        else:
            self.decayed = rate * self.decayed + (1 - rate) * self.recent
        self.recent = torch.zeros_like(self.recent)
        self.num_decays += 1

    def compute(self) -> Tensor:
        return auc_of_bins(self.decayed if self.num_decays else self.recent, name="train auc")


class DecayedMetric:
    """Decays a metric every ``decay_step`` updates.

    An update is a step of training, with or without rows on this rank, so that all ranks decay
    together.
    """

    def __init__(self, metric: Decaying, *, decay_rate: float, decay_step: int) -> None:
        self.metric = metric
        self.decay_rate = decay_rate
        self.decay_step = decay_step
        self.num_steps = 0

    def update(self, preds: Tensor, target: Tensor) -> None:
        self.metric.update(preds, target)
        self.num_steps += 1
        if self.num_steps % self.decay_step == 0:
            self.metric.decay(self.decay_rate)

    def to(self, device: torch.device) -> None:
        """Moves the state to ``device``."""
        self.metric.to(device)

    def compute(self) -> Tensor:
        """Returns the 0-d value; all ranks must call."""
        return self.metric.compute()
