"""What happens around the backward pass of each batch."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.batch import Batch
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.modules.gradient_gate import GradientGate
from tzrec_core.optim.averages import Averages
from tzrec_core.optim.dense import learning_rates, set_learning_rates
from tzrec_core.optim.loss_scale import LossScale
from tzrec_core.optim.schedules.formulas import Schedule

Clip = Callable[[Iterable[Tensor]], object]


class Stepper:
    """An optimizer as a train pipeline calls it: once before and once after each backward pass.

    Batches come through ``expected``; those whose gradients are accumulated end with one that
    ``completes_step``. Before each, ``schedule`` puts the learning rates in force. Tables are
    updated with each batch; dense parameters, and their averages, when a step is complete.

    With a ``loss_scale`` the loss must be multiplied by it. When gradients are not finite, on any
    rank, the rest of the step is left out: no table is updated with this batch nor with those after
    it, and the dense parameters not at all.

    Attributes:
        loss_scale: None if losses are not scaled.
        averages: Of the dense parameters; None if there are none.
        num_updates: How often the dense parameters have been updated.
        before_update: Called when their gradients are complete and no longer scaled, before they
            are clipped and used; None: nothing.
    """

    def __init__(
        self,
        optimizer: CombinedOptimizer,
        ranks: Ranks,
        *,
        schedules: Sequence[Schedule],
        clip: Clip | None = None,
        gate: GradientGate | None = None,
        loss_scale: LossScale | None = None,
        averages: Averages | None = None,
    ) -> None:
        """Takes over ``optimizer``; ``gate`` is closed if the loss is scaled, and of its model."""
        assert (gate is None) == (loss_scale is None)
        self.loss_scale = loss_scale
        self.averages = averages
        self.num_updates = 0
        self._ranks = ranks
        self._optimizer = optimizer
        (_, self._sparse), *dense = optimizer.optimizers
        self._dense = [part for _, part in dense]
        self._parameters = [weight for part in self._dense for weight in part.params.values()]
        self._schedules = schedules
        self._clip = clip
        self._gate = gate
        self._completes_step: deque[bool] = deque()
        self._is_pending = False
        self._has_overflowed = False
        self.before_update: Callable[[], object] | None = None

    @property
    def is_pending(self) -> bool:
        """Whether gradients are accumulated that no update has used yet: no time to save."""
        return self._is_pending

    def expected(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """Passes batches on to be trained on, in this order."""
        for batch in batches:
            self._completes_step.append(batch.completes_step)
            yield batch

    def schedule(self, *, step: int, epoch: int) -> None:
        """Puts the learning rates of the batch after ``step`` batches and ``epoch`` epochs."""
        rates = [schedule.at(step=step, epoch=epoch) for schedule in self._schedules]
        set_learning_rates(self._optimizer, rates)

    def values(self) -> dict[str, float]:
        """Returns for the log the last batch's learning rates, and the loss scale as it is now."""
        rates = learning_rates(self._optimizer)
        return rates if self.loss_scale is None else rates | {"loss_scale": self.loss_scale.scale}

    def zero_grad(self) -> None:
        """Prepares for a backward pass."""
        self._sparse.zero_grad()  # which passes the learning rate on to the kernels
        if not self._is_pending:
            for part in self._dense:
                part.zero_grad()

    def step(self) -> None:
        """Uses the gradients of the backward pass.

        Raises:
            FloatingPointError: Gradients are not finite however small the loss is scaled.
        """
        self._is_pending = not self._completes_step.popleft()
        if self._gate is not None:
            self._open(self._gate)
        self._sparse.step()
        if self._is_pending:
            return
        overflowed, self._has_overflowed = self._has_overflowed, False
        if not overflowed:
            self._update()
        if self.loss_scale is not None:
            self.loss_scale.update(overflowed=overflowed)

    def state(self) -> dict[str, Any]:
        """Returns what a restart needs beside the optimizer's state and ``averages.values``."""
        return {
            "num_updates": self.num_updates,
            "num_averaged": 0 if self.averages is None else self.averages.num_updates,
            "loss_scale": None
            if self.loss_scale is None
            else [self.loss_scale.scale, self.loss_scale.streak],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Takes over a state of ``state``; what it does not have stays as it is."""
        self.num_updates = int(state["num_updates"])
        if self.averages is not None:
            self.averages.num_updates = int(state["num_averaged"])
        if self.loss_scale is not None and state["loss_scale"] is not None:
            scale, streak = state["loss_scale"]
            self.loss_scale.scale, self.loss_scale.streak = float(scale), int(streak)

    def _open(self, gate: GradientGate) -> None:
        """Lets the batch's gradients on to the tables, unless some are not finite on any rank."""
        assert self.loss_scale is not None
        gradients = [weight.grad for weight in self._parameters if weight.grad is not None]
        are_finite = [gradient.isfinite().all() for gradient in (*gradients, *gate.gradients())]
        overflows = (~torch.stack(are_finite)).any().int().cpu()
        if self._ranks.world_size > 1:
            dist.all_reduce(overflows, dist.ReduceOp.MAX, group=self._ranks.control)
        if overflows:
            self._has_overflowed = True
            gate.drop()
        else:
            gate.release(factor=1 / self.loss_scale.scale)

    def _update(self) -> None:
        if self.loss_scale is not None:
            for weight in self._parameters:
                if weight.grad is not None:
                    weight.grad.mul_(1 / self.loss_scale.scale)
        if self.before_update is not None:
            self.before_update()
        if self._clip is not None:
            self._clip(self._parameters)
        for part in self._dense:
            part.step()
        self.num_updates += 1
        if self.averages is not None:
            self.averages.update()
