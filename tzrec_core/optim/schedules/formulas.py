"""Learning rates as functions of how much of the training is done.

``done`` counts the completed steps, or epochs: the first step has the rate of 0. A rate depends on
nothing else, so a training that goes on has the rates of one that was never interrupted.
"""

import bisect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Schedule:
    """A learning rate over time.

    Attributes:
        rate: The rate after so many completed steps or epochs.
        by_epoch: Whether ``rate`` counts epochs.
    """

    rate: Callable[[int], float]
    by_epoch: bool

    def at(self, *, step: int, epoch: int) -> float:
        """Returns the rate of the next step."""
        return self.rate(epoch if self.by_epoch else step)


def constant(done: int, *, base_lr: float) -> float:
    """Returns ``base_lr``."""
    return base_lr


def exponential_decay(
    done: int,
    *,
    base_lr: float,
    decay_size: int,
    decay_factor: float,
    staircase: bool,
    floor: float,
) -> float:
    """Returns ``base_lr * decay_factor ** (done / decay_size)``, but at least ``floor``.

    With ``staircase`` the exponent is rounded down, so the rate falls every ``decay_size``.
    """
    exponent = done // decay_size if staircase else done / decay_size
    return max(base_lr * decay_factor**exponent, floor)


def manual_step(
    done: int, *, base_lr: float, sizes: Sequence[int], rates: Sequence[float], warmup: bool
) -> float:
    """Returns ``rates[i]`` once ``sizes[i]`` is done, ``base_lr`` before ``sizes[0]``.

    With ``warmup`` the rate goes from ``base_lr`` to ``rates[0]`` in a straight line.
    """
    reached = bisect.bisect_right(sizes, done)
    if reached > 0:
        return rates[reached - 1]
    if warmup:
        return base_lr + (rates[0] - base_lr) * done / sizes[0]
    return base_lr


def cosine_annealing(done: int, *, base_lr: float, period: int, floor: float) -> float:
    """Returns half a cosine from ``base_lr`` down to ``floor`` at ``period``, and ``floor`` after.

    See Loshchilov and Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", equation 5.
    """
    share = min(done, period) / period
    return floor + (base_lr - floor) * (1 + math.cos(math.pi * share)) / 2


def cosine_annealing_warm_restarts(
    done: int, *, base_lr: float, period: int, growth: int, floor: float
) -> float:
    """Returns ``cosine_annealing`` over and over, each time ``growth`` times as long as before."""
    if growth == 1:
        return cosine_annealing(done % period, base_lr=base_lr, period=period, floor=floor)
    while done >= period:
        done, period = done - period, period * growth
    return cosine_annealing(done, base_lr=base_lr, period=period, floor=floor)


def warmed_up(
    done: int, *, base_lr: float, start: float, size: int, then: Callable[[int], float]
) -> float:
    """Returns a straight line from ``start`` to ``base_lr`` at ``size``, where ``then`` begins."""
    if done < size:
        return start + (base_lr - start) * done / size
    return then(done - size)
