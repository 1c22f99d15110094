"""Holds back the gradients of embedding tables until they are known to be usable."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torchrec import KeyedTensor


class GradientGate(nn.Module):
    """Passes embeddings on; when ``is_closed``, the backward pass ends here until ``release``.

    Tables are updated inside the backward pass. With a scaled loss that would be too early: their
    gradients still have to be divided by the scale, and must not reach the tables at all if the
    loss has overflowed.

    Attributes:
        is_closed: Whether gradients are held back. Evaluation is not affected.
    """

    def __init__(self) -> None:
        super().__init__()
        self.is_closed = False
        self._held: list[tuple[Tensor, Tensor]] = []

    def forward(self, embeddings: Sequence[KeyedTensor]) -> Sequence[KeyedTensor]:
        if not (self.is_closed and torch.is_grad_enabled()):
            return embeddings
        return [
            KeyedTensor(
                keys=tensor.keys(),
                length_per_key=tensor.length_per_key(),
                values=self._cut(tensor.values()),
            )
            for tensor in embeddings
        ]

    def gradients(self) -> Iterable[Tensor]:
        """Yields the gradients that are held back."""
        for _, leaf in self._held:
            if leaf.grad is not None:
                yield leaf.grad

    def release(self, *, factor: float) -> None:
        """Multiplies the gradients by ``factor`` and lets them on to the tables.

        Call it on every rank, or on none.
        """
        held, self._held = self._held, []
        if held:
            torch.autograd.backward(
                [values for values, _ in held],
                [
                    torch.zeros_like(leaf) if leaf.grad is None else leaf.grad * factor
                    for _, leaf in held
                ],
            )

    def drop(self) -> None:
        """Forgets the gradients: the tables stay as they are."""
        self._held = []

    def _cut(self, values: Tensor) -> Tensor:
        leaf = values.detach().requires_grad_()
        self._held.append((values, leaf))
        return leaf
