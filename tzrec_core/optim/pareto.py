"""Weights of several tasks' losses, found from their gradients while training."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from tzrec_core.distributed.ranks import Ranks
from tzrec_core.losses.pareto import pareto_weights


class ParetoBalance:
    """Weighs losses so that the gradient of their sum is the shortest possible.

    See ``losses.pareto``. It is the gradient with respect to the dense parameters, over the rows of
    all ranks, which all get the same weights. It is taken in the forward pass, once for each loss;
    tables are not part of it, and see the backward pass of the weighted sum only.
    """

    def __init__(
        self, parameters: Sequence[Tensor], lower_bounds: Sequence[float], ranks: Ranks
    ) -> None:
        """Takes the dense parameters and each loss's least weight, from 0, of sum 1 or less."""
        self._parameters = tuple(parameters)
        self._lower_bounds = tuple(lower_bounds)
        self._ranks = ranks
        self._forget()

    def weights(self, losses: Tensor) -> Tensor | None:
        """Returns [K] weights of sum 1 for [K] losses; None if a gradient is not finite.

        A loss whose gradient is exactly 0, as that of a task without a row, would take all that is
        free, and the model would stand still for the sake of nothing: it gets 0 and the others
        share 1.

        Every rank must call, with losses whose gradients are to be averaged over the ranks.
        """
        weights = torch.zeros(len(losses), dtype=torch.float64)
        gram = self._inner_products(losses)
        if self._ranks.rank == 0:
            weights.copy_(torch.from_numpy(self._solved(gram)))
        # The last bits of an average may differ between ranks.
        dist.broadcast(weights, src=0, group=self._ranks.control)
        if weights.isnan().any():
            return None
        self._sums += weights
        self._num_batches += 1
        return weights.to(losses)

    def pop_means(self) -> list[float] | None:
        """Returns each loss's mean weight in the batches since the last call; None without any."""
        means = (self._sums / self._num_batches).tolist() if self._num_batches else None
        self._forget()
        return means

    def _forget(self) -> None:
        self._sums = torch.zeros(len(self._lower_bounds), dtype=torch.float64)
        self._num_batches = 0

    def _inner_products(self, losses: Tensor) -> np.ndarray:
        """Returns [K, K] float64 of the gradients."""
        rows = []
        for loss in losses.unbind():
            gradients = torch.autograd.grad(
                loss, self._parameters, retain_graph=True, materialize_grads=True
            )
            rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
        together = torch.stack(rows)
        if self._ranks.world_size > 1:
            dist.all_reduce(together)
        together = together.double() / self._ranks.world_size
        return (together @ together.T).cpu().numpy()

    def _solved(self, gram: np.ndarray) -> np.ndarray:
        weights = np.zeros(len(gram))
        if not np.isfinite(gram).all():
            return weights + np.nan
        there = np.flatnonzero(np.diag(gram))
        if len(there):
            bounds = [self._lower_bounds[loss] for loss in there]
            weights[there] = pareto_weights(gram[np.ix_(there, there)], bounds)
        return weights
