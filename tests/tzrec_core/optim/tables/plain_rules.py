"""The update rules of rows once more: one row at a time, in float64, as the papers write them."""

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from tzrec_core.optim import sparse
from tzrec_core.optim.sparse import SparseRule

Row = Callable[[Tensor, Tensor, dict, float, int], Tensor]
COMMON = {"lr": 0.1, "gradient_clipping": False, "max_gradient": 1.0}
MOMENTS = {"beta1": 0.7, "beta2": 0.9, "weight_decay": 0.3}


def norm(row: Tensor) -> float:
    return math.sqrt(sum(x * x for x in row.tolist()))


def rowwise_adagrad(w, g, state, lr, t, *, weight_decay, decoupled):
    if not decoupled:
        g = g + weight_decay * w
    state["sum"] = state.get("sum", 0.0) + norm(g) ** 2 / len(g)
    update = g / (math.sqrt(state["sum"]) + 1e-8)
    return w - lr * (update + weight_decay * w if decoupled else update)


def adam_direction(w, g, state, t, *, beta1, beta2, weight_decay, by_row=False):
    squares = norm(g) ** 2 / len(g) if by_row else g * g
    state["m"] = beta1 * state.get("m", 0.0) + (1 - beta1) * g
    state["v"] = beta2 * state.get("v", 0.0) + (1 - beta2) * squares
    m, v = state["m"] / (1 - beta1**t), state["v"] / (1 - beta2**t)
    return m / (v**0.5 + 1e-8) + weight_decay * w


def adam(w, g, state, lr, t, **options):
    return w - lr * adam_direction(w, g, state, t, **options)


def lamb(w, g, state, lr, t, **options):
    r = adam_direction(w, g, state, t, **options)
    return w if norm(r) == 0 else w - lr * norm(w) / norm(r) * r


def lars_sgd(w, g, state, lr, t, *, momentum, weight_decay):
    divisor = norm(g) + weight_decay * norm(w)
    rate = lr * 0.001 * norm(w) / divisor if divisor else 0.0
    state["m"] = momentum * state.get("m", 0.0) + rate * (g + weight_decay * w)
    return w - state["m"]


def adadelta(w, g, state, lr, t, *, rho, eps, weight_decay):
    g = g + weight_decay * w
    state["g"] = rho * state.get("g", 0.0) + (1 - rho) * g**2
    delta = (state.get("d", 0.0) + eps) ** 0.5 / (state["g"] + eps) ** 0.5 * g
    state["d"] = rho * state.get("d", 0.0) + (1 - rho) * delta**2
    return w - lr * delta


def rmsprop(w, g, state, lr, t, *, alpha, eps, weight_decay):
    g = g + weight_decay * w
    state["g"] = alpha * state.get("g", 0.0) + (1 - alpha) * g**2
    return w - lr * g / (state["g"] ** 0.5 + eps)


def _decayed(decoupled: bool) -> tuple[Callable[..., SparseRule], Row]:
    options = {"weight_decay": 0.3, "decoupled": decoupled}
    rule = partial(sparse.decayed_rowwise_adagrad, **options, device_type="cpu")
    return rule, partial(rowwise_adagrad, **options)


def _moments(kind: sparse.Moments, plain: Callable) -> tuple[Callable[..., SparseRule], Row]:
    rule = partial(sparse.with_moments, kind, **MOMENTS, device_type="cpu")
    return rule, partial(plain, **MOMENTS, by_row=kind.squares_by_row)


def _same(make: Callable[..., SparseRule], plain: Callable, **options):
    return partial(make, **options), partial(plain, **options)


# By name: what makes the rule, given COMMON, and the plain one.
RULES: dict[str, tuple[Callable[..., SparseRule], Row]] = {
    "rowwise_adagrad_l2": _decayed(False),
    "rowwise_adagrad_decoupled": _decayed(True),
    "adam": _moments(sparse.ADAM, adam),
    "partial_rowwise_adam": _moments(sparse.PARTIAL_ROWWISE_ADAM, adam),
    "lamb": _moments(sparse.LAMB, lamb),
    "partial_rowwise_lamb": _moments(sparse.PARTIAL_ROWWISE_LAMB, lamb),
    "lars_sgd": _same(sparse.lars_sgd, lars_sgd, momentum=0.8, weight_decay=0.3),
    "adadelta": _same(sparse.adadelta, adadelta, rho=0.8, eps=1e-3, weight_decay=0.3),
    "rmsprop": _same(sparse.rmsprop, rmsprop, alpha=0.8, eps=1e-6, weight_decay=0.3),
}

# Those that FBGEMM's CUDA kernels have, made for them.
ON_CUDA: dict[str, Callable[..., SparseRule]] = {
    name: partial(make, device_type="cuda")
    for name, (make, _) in RULES.items()
    if "device_type" in make.keywords
}


class PlainTable:
    """A table updated by a plain rule, in the rows that are looked up and in no others."""

    def __init__(self, weights: Tensor, rule: Row) -> None:
        self.weights = weights.double()
        self._rule = rule
        self._states: dict[int, dict] = {}

    def update(self, ids: Tensor, gradients: Tensor, *, lr: float, step: int) -> None:
        """Updates the rows in ``ids``, once each, given the gradients of all rows."""
        for row in set(ids.tolist()):
            state = self._states.setdefault(row, {})
            self.weights[row] = self._rule(
                self.weights[row].clone(), gradients[row].double(), state, lr, step
            )


def close(ours: Tensor, plain: PlainTable) -> None:
    torch.testing.assert_close(ours.double(), plain.weights, rtol=1e-5, atol=1e-6)
