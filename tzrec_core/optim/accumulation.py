"""Which batches have their gradients accumulated into one update of the dense parameters."""

import dataclasses
from collections.abc import Iterator, Sequence
from itertools import islice

import torch
from torch import Tensor

from tzrec_core.batch import Batch


def accumulated(
    batches: Iterator[Batch], *, num_batches: int, limit: int | None
) -> Iterator[Batch]:
    """Passes batches on, ``num_batches`` to a step, with ``share`` and ``completes_step`` set.

    A batch's share is, for each task, its part of the loss weight of the step: with losses
    multiplied by it, the gradients of the step add up to that of one batch with all its rows. What
    is left at the end is a step of fewer batches. Reads the batches of a step before it passes on
    the first.

    Args:
        batches: From ``distributed.agreement.agree``.
        num_batches: 1 or more.
        limit: Batches to pass on at most; None: all.
    """
    batches = islice(batches, limit)
    while step := list(islice(batches, num_batches)):
        shares = _shares(step) if num_batches > 1 else [None]
        for number, (batch, share) in enumerate(zip(step, shares, strict=True), start=1):
            yield dataclasses.replace(batch, share=share, completes_step=number == len(step))


def _shares(step: Sequence[Batch]) -> list[Tensor]:
    weights = torch.stack([_weight(batch) for batch in step])
    total = weights.sum(0)
    return list((weights / total.where(total > 0, 1.0)).float())


def _weight(batch: Batch) -> Tensor:
    assert batch.normalizer is not None
    assert batch.share is not None
    return batch.normalizer.double() * batch.share
