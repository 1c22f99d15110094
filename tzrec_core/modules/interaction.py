"""Interactions among embeddings of one size."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


def factorization_machine(vectors: Tensor) -> Tensor:
    """Returns the sum of the element-wise products of all pairs of vectors.

    Rendle, Factorization Machines (ICDM 2010), eq. 1 in the linear-time form of its lemma 3.1,
    not yet summed over the embedding.

    Args:
        vectors: [B, N, D].

    Returns:
        [B, D]; zero for N = 1.
    """
    if torch.jit.is_scripting():  # type: ignore[attr-defined]
        return _half_of_pairs(vectors, vectors.sum(dim=1))
    return _sum_of_pairs(vectors)


def _half_of_pairs(vectors: Tensor, total: Tensor) -> Tensor:
    return 0.5 * (total * total - (vectors * vectors).sum(dim=1))


class _SumOfPairs(torch.autograd.Function):
    """The factorization machine, whose gradient by a vector is the sum of all others.

    Autograd comes to the same numbers, with twice the passes over memory.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor) -> Tensor:
        total = vectors.sum(dim=1)
        ctx.save_for_backward(vectors, total)
        return _half_of_pairs(vectors, total)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        vectors, total = ctx.saved_tensors
        own = vectors * grad.unsqueeze(1)
        return torch.sub((total * grad).unsqueeze(1), own, out=own)


@torch.jit.unused
def _sum_of_pairs(vectors: Tensor) -> Tensor:
    result: Tensor = _SumOfPairs.apply(vectors)
    return result


class DotInteraction(nn.Module):
    """Dot products of all pairs of vectors: [B, N, D] to [B, N * (N - 1) / 2].

    The interaction of DLRM (Naumov et al. 2019): pair (i, j), i < j, rows of the upper triangle
    one after the other.
    """

    upper: Tensor
    pair: Tensor

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        rows, columns = torch.triu_indices(num_vectors, num_vectors, offset=1)
        self.out_features = rows.numel()
        # Column of pair (i, j), also at (j, i); the diagonal points to a column of zeros behind.
        pair = torch.full((num_vectors, num_vectors), self.out_features)
        pair[rows, columns] = pair[columns, rows] = torch.arange(self.out_features)
        self.register_buffer("upper", rows * num_vectors + columns, persistent=False)
        self.register_buffer("pair", pair.flatten(), persistent=False)

    def forward(self, vectors: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            products = torch.bmm(vectors, vectors.transpose(1, 2))
            return products.flatten(1).index_select(1, self.upper)
        return _pairwise_dot(vectors, self.upper, self.pair)


class _PairwiseDot(torch.autograd.Function):
    """Dot products with one gather and one matrix product in each direction.

    The matrix of products is symmetric, so the gradient by the vectors is one product with the
    symmetric matrix of the pairs' gradients, and that matrix is gathered, not scattered.
    """

    @staticmethod
    def forward(ctx: Any, vectors: Tensor, upper: Tensor, pair: Tensor) -> Tensor:
        ctx.save_for_backward(vectors, pair)
        products = torch.bmm(vectors, vectors.transpose(1, 2))
        return products.flatten(1).index_select(1, upper)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        vectors, pair = ctx.saved_tensors
        num_vectors = vectors.size(1)
        padded = torch.cat([grad, grad.new_zeros(grad.size(0), 1)], dim=1)
        symmetric = padded.index_select(1, pair).view(-1, num_vectors, num_vectors)
        # Under autocast the gradient is of lower precision than the vectors.
        product = torch.bmm(symmetric, vectors.to(symmetric.dtype))
        return product.to(vectors.dtype), None, None


@torch.jit.unused
def _pairwise_dot(vectors: Tensor, upper: Tensor, pair: Tensor) -> Tensor:
    result: Tensor = _PairwiseDot.apply(vectors, upper, pair)
    return result
