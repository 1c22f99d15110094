"""Averages of dense parameters over the training, in which old values fade."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor


class Averages:
    """Exponential moving averages: ``a = decay * a + (1 - decay) * w`` with each update.

    The first update copies the weights, so the random values that they began with do not count.
    Weights that are the same on all ranks have the same averages there.

    Attributes:
        values: The averages by the names of the parameters.
        num_updates: Updates so far.
    """

    def __init__(self, parameters: Mapping[str, Tensor], *, decay: float) -> None:
        self._parameters = dict(parameters)
        self._decay = decay
        self.values: dict[str, Tensor] = {}
        self.restart()

    def restart(self) -> None:
        """Begins anew from the weights as they are."""
        self.values = {name: weight.detach().clone() for name, weight in self._parameters.items()}
        self.num_updates = 0

    def update(self) -> None:
        """Counts the weights in, after they have been updated."""
        share_of_new = 1.0 if self.num_updates == 0 else 1 - self._decay
        with torch.no_grad():
            for name, weight in self._parameters.items():
                self.values[name].lerp_(weight, share_of_new)
        self.num_updates += 1

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Puts the averages in the place of the weights for the length of the ``with`` block."""
        weights = {name: weight.detach().clone() for name, weight in self._parameters.items()}
        self._fill(self.values)
        try:
            yield
        finally:
            self._fill(weights)

    def _fill(self, values: Mapping[str, Tensor]) -> None:
        with torch.no_grad():
            for name, weight in self._parameters.items():
                weight.copy_(values[name])
