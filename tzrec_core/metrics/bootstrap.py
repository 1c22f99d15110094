"""Confidence intervals by bootstrap over groups of rows, such as users.

Rows of one user are alike, so drawing rows again would make intervals too narrow: whole groups are
drawn, with replacement, as many as there are. A replicate of a metric costs nothing but sums over
groups, ``group_statistics`` says of what.

More than ``MAX_UNITS`` groups are first put at random into that many bundles of equal numbers, and
bundles are drawn (the random group method: K. Wolter, Introduction to Variance Estimation, 2007,
ch. 2). Sums over bundles vary as sums over groups do; estimating their spread from so many bundles
errs by 1 / sqrt(2 * MAX_UNITS), half a percent, less than what 1000 replicates err. That bounds
time and memory for any number of groups.

The interval is the percentile interval, widened for few groups as T. Hesterberg, "What Teachers
Should Know About the Bootstrap", The American Statistician 69, 2015, proposes: by
sqrt(U / (U - 1)) and by Student's t in place of the normal distribution. Its degrees of freedom are
2 U / (kurtosis - 1), kurtosis that of the jackknife's values (F. Satterthwaite 1946): a few large
groups among many small ones are worth few groups.
"""

import math
import warnings
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import torch
from torch import Tensor

from tzrec_core.metrics.group_statistics import GroupStatistics

MAX_UNITS = 2**14
_DRAWS_AT_A_TIME = 2**18


@dataclass(frozen=True)
class Interval:
    """A metric with its confidence interval, low <= value <= high.

    All are NaN without a value, ``low`` and ``high`` also where groups are too few.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True)
class Difference:
    """A candidate's metric minus a baseline's, its confidence interval, low <= value <= high.

    ``p_value`` is two-sided, of the hypothesis that there is no difference: the least
    1 - level at which the interval leaves 0 out, not below 1 / (number of replicates + 1). NaN are
    all without a value, and all but ``value`` where groups are too few.
    """

    value: float
    low: float
    high: float
    p_value: float


def interval(
    statistics: GroupStatistics, *, num_replicates: int = 1000, level: float = 0.95, seed: int
) -> Interval:
    """Returns the metric and the interval that covers its true value with probability ``level``.

    NaN, with a warning, if the metric has no value, or has none without one of the groups: an
    interval needs two groups at least. With fewer than 20 it is somewhat too narrow.

    Args:
        statistics: The metric and its groups.
        num_replicates: How often all groups are drawn anew.
        level: In (0, 1).
        seed: The same seed gives the same interval.

    Raises:
        ValueError: ``level`` is not in (0, 1), or there are too few replicates for it.
    """
    _check(num_replicates, level)
    value = statistics.value
    spread = _spread(statistics, num_replicates, seed)
    if spread is None:
        return Interval(value, math.nan, math.nan)
    low, high = spread.interval(level)
    return Interval(value, min(low, value), max(high, value))


def paired_difference(
    candidate: GroupStatistics,
    baseline: GroupStatistics,
    *,
    num_replicates: int = 1000,
    level: float = 0.95,
    seed: int,
) -> Difference:
    """Returns by how much two models' metrics on the same rows differ.

    Both models see the same groups in each replicate, so what makes a draw of groups easy or hard
    for both does not count. Otherwise as ``interval``.

    Args:
        candidate: The metric of one model.
        baseline: The same metric of the same rows and keys for the other model; where rows have no
            key, in the same order.
        num_replicates: How often all groups are drawn anew.
        level: In (0, 1).
        seed: The same seed gives the same result.

    Raises:
        ValueError: As ``interval``; the two are different metrics or have different groups.
    """
    _check(num_replicates, level)
    if candidate.name != baseline.name:
        raise ValueError(f"candidate and baseline: {candidate.name} is not {baseline.name}")
    if len(candidate.sums) != len(baseline.sums):
        raise ValueError(
            f"{candidate.name}: candidate and baseline must have the same groups, "
            f"got {len(candidate.sums)} and {len(baseline.sums)}"
        )
    width = candidate.sums.shape[1]

    def difference(sums: Tensor) -> Tensor:
        of_candidate = candidate.formula(sums[..., :width])
        of_baseline = baseline.formula(sums[..., width:])
        # The rounding of sums must not decide which of two equal models is better.
        is_equal = torch.isclose(of_candidate, of_baseline, rtol=1e-12, atol=0)
        return (of_candidate - of_baseline).masked_fill(is_equal, 0)

    both = GroupStatistics(
        name=f"difference of {candidate.name}",
        sums=torch.cat([candidate.sums, baseline.sums], dim=1),
        formula=difference,
    )
    value = both.value
    spread = _spread(both, num_replicates, seed)
    if spread is None:
        return Difference(value, math.nan, math.nan, math.nan)
    low, high = spread.interval(level)
    return Difference(value, min(low, value), max(high, value), spread.p_value())


def draw_units(sums: Tensor, *, num_replicates: int, seed: int) -> tuple[Tensor, Tensor]:
    """Returns what is drawn, and the sums over each drawing of as many as there are.

    Args:
        sums: [G, k] float64 sums over groups; those that are 0 throughout are left out, one is not.
        num_replicates: How many drawings.
        seed: Of all that is random.

    Returns:
        [U, k] sums over groups, or over bundles of groups if more than ``MAX_UNITS`` are not 0;
        [num_replicates, k] sums over drawings. Both float64.
    """
    generator = np.random.default_rng(seed)
    units = sums[(sums != 0).any(dim=1)]
    if len(units) > MAX_UNITS:
        bundle = torch.from_numpy(generator.permutation(len(units)) % MAX_UNITS)
        units = units.new_zeros(MAX_UNITS, units.shape[1]).index_add_(0, bundle, units)
    num_units = len(units)
    replicates = []
    step = max(1, _DRAWS_AT_A_TIME // num_units)
    for start in range(0, num_replicates, step):
        rows = min(step, num_replicates - start)
        drawn = generator.integers(num_units, size=(rows, num_units))
        drawn += np.arange(rows)[:, None] * num_units
        counts = np.bincount(drawn.reshape(-1), minlength=rows * num_units)
        replicates.append(torch.from_numpy(counts).view(rows, num_units).double() @ units)
    return units, torch.cat(replicates)


@dataclass(frozen=True)
class _Spread:
    """How a metric varies over replicates.

    Attributes:
        replicates: [R] values, ascending; of those replicates in which there is one.
        num_units: How many units were drawn, with replacement.
        degrees_of_freedom: Of Student's t.
    """

    replicates: Tensor
    num_units: int
    degrees_of_freedom: float

    def interval(self, level: float) -> tuple[float, float]:
        t = _student_quantile(NormalDist().inv_cdf((1 + level) / 2), self.degrees_of_freedom)
        tail = NormalDist().cdf(-t * self._widening)
        low, high = torch.quantile(self.replicates, self.replicates.new_tensor([tail, 1 - tail]))
        return low.item(), high.item()

    def p_value(self) -> float:
        """Inverts ``interval``: the 1 - level at which it ends at 0."""
        below, tied = (self.replicates < 0).sum().item(), (self.replicates == 0).sum().item()
        share = (below + (tied + 1) / 2) / (len(self.replicates) + 1)
        t = NormalDist().inv_cdf(share) / self._widening
        return 2 * NormalDist().cdf(-abs(_normal_quantile(t, self.degrees_of_freedom)))

    @property
    def _widening(self) -> float:
        return math.sqrt(self.num_units / (self.num_units - 1))


def _spread(statistics: GroupStatistics, num_replicates: int, seed: int) -> _Spread | None:
    """Draws the replicates; None, with a warning, if they would say nothing."""
    no_interval = f"{statistics.name} has no confidence interval: "
    if not math.isfinite(statistics.value):
        warnings.warn(f"{no_interval}it is {statistics.value}", stacklevel=3)
        return None
    units, drawings = draw_units(statistics.sums, num_replicates=num_replicates, seed=seed)
    without_one = statistics.formula(units.sum(dim=0) - units)
    if not without_one.isfinite().all():
        warnings.warn(f"{no_interval}without one of its groups it is NaN", stacklevel=3)
        return None
    influence = without_one - without_one.mean()
    kurtosis = influence.pow(4).mean() / influence.square().mean().square()
    # 0 / 0 if no group matters; then any number of degrees of freedom gives the same.
    per_degree = max(1 / (len(units) - 1), (kurtosis.nan_to_num().item() - 1) / (2 * len(units)))
    replicates = statistics.formula(drawings)
    return _Spread(
        replicates=replicates[replicates.isfinite()].sort().values,
        num_units=len(units),
        degrees_of_freedom=1 / per_degree,
    )


def _student_quantile(z: float, degrees_of_freedom: float) -> float:
    """Turns a quantile of the normal distribution into that of Student's t, z >= 0.

    D. Wallace, "Bounds on Normal Approximations to Student's and the Chi-Square Distributions",
    Annals of Mathematical Statistics 30, 1959. At 95 % within 1.2 % from 3 degrees of freedom,
    0.3 % from 5.
    """
    n = degrees_of_freedom
    return math.sqrt(n * math.expm1((z * (8 * n + 3) / (8 * n + 1)) ** 2 / n))


def _normal_quantile(t: float, degrees_of_freedom: float) -> float:
    """The inverse of ``_student_quantile``, without its sign."""
    n = degrees_of_freedom
    return math.sqrt(n * math.log1p(t * t / n)) * (8 * n + 1) / (8 * n + 3)


def _check(num_replicates: int, level: float) -> None:
    if not 0 < level < 1:
        raise ValueError(f"level must be in (0, 1), got {level}")
    if num_replicates * (1 - level) < 2:
        raise ValueError(
            f"num_replicates must be {math.ceil(2 / (1 - level))} or more for level {level}, "
            f"got {num_replicates}"
        )
