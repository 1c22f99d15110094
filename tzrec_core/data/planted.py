"""The planted model of the synthetic click logs: their columns, and how much a row is liked.

A row's utility is a function of the columns that are written, and of nothing else:

    utility = intercept + sum over columns of a * f(value)
                        + sum over crosses of b * (sum of f over left) * (sum of f over right)

* ``f`` of a number is its logarithm, straight or bent; a linear model cannot see a bent one.
* ``f`` of an id is a random weight of its own, a hash, so that no table is needed. Ids follow
  Zipf's law; in the largest columns most of them are hardly ever seen.
* In a cross two sets of columns meet, such as those of a user and those of an item. It is
  uncorrelated with every function of a single column, so models that only add see noise.
* A null is worth 0.

Every ``f`` has mean 0 and variance 1; ``a`` and ``b`` give each term its share of the variance.
These and the intercept are measured, for each seed, on rows that are never written.

A cross uses the weights that also act alone. With weights of their own, crosses could not be
learned from few rows: without a main effect to start from, gradient descent stays where the
embeddings are small and their products vanish.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from tzrec_core.data.draws import Index, Numbers, bits, stream_key, uniform, zipf

CLICK_RATE = 0.25
UTILITY_DEVIATION = 1.9
_PILOT_ROWS = np.arange(1 << 62, (1 << 62) + (1 << 16), dtype=np.uint64)
_SESSION_PAGE = 32  # rows; no session goes on in the next page
_SESSION_LENGTH = 6.0  # rows, but for the ends of pages


@dataclass(frozen=True)
class Numeric:
    """A column of counts, floor(median * odds ** shape), the odds of a uniform number."""

    name: str
    median: float
    shape: float
    null_share: float
    share: float = 0.0
    bent: bool = False


@dataclass(frozen=True)
class Categorical:
    """A column of ids 1..size, id k with a probability near k ** -exponent."""

    name: str
    size: int
    exponent: float
    null_share: float
    share: float = 0.0


@dataclass(frozen=True)
class Cross:
    """Two sets of categorical columns that act together."""

    left: tuple[str, ...]
    right: tuple[str, ...]
    share: float


NUMERIC = (
    Numeric("int_0", median=2, shape=0.9, null_share=0.45, share=2),
    Numeric("int_1", median=4, shape=1.2, null_share=0.00, share=2, bent=True),
    Numeric("int_2", median=8, shape=0.9, null_share=0.21, share=1),
    Numeric("int_3", median=5, shape=0.6, null_share=0.21),
    Numeric("int_4", median=2500, shape=1.1, null_share=0.03, share=3, bent=True),
    Numeric("int_5", median=40, shape=1.0, null_share=0.22, share=1),
    Numeric("int_6", median=4, shape=0.9, null_share=0.04),
    Numeric("int_7", median=9, shape=0.6, null_share=0.00),
    Numeric("int_8", median=45, shape=0.8, null_share=0.04),
    Numeric("int_9", median=1, shape=0.3, null_share=0.45),
    Numeric("int_10", median=2, shape=0.6, null_share=0.04, share=1),
    Numeric("int_11", median=1, shape=0.5, null_share=0.76),
    Numeric("int_12", median=6, shape=0.6, null_share=0.21),
)
CATEGORICAL = (
    Categorical("cat_0", size=1500, exponent=1.1, null_share=0.00, share=3),
    Categorical("cat_1", size=600, exponent=1.05, null_share=0.00, share=3),
    Categorical("cat_2", size=200_000, exponent=1.15, null_share=0.03, share=5),
    Categorical("cat_3", size=100_000, exponent=1.2, null_share=0.03, share=5),
    Categorical("cat_4", size=300, exponent=1.1, null_share=0.00, share=3),
    Categorical("cat_5", size=24, exponent=1.1, null_share=0.12, share=2),
    Categorical("cat_6", size=12_500, exponent=1.1, null_share=0.00, share=5),
    Categorical("cat_7", size=630, exponent=1.2, null_share=0.00, share=3),
    Categorical("cat_8", size=3, exponent=1.0, null_share=0.00, share=1),
    Categorical("cat_9", size=30_000, exponent=1.1, null_share=0.00, share=5),
    Categorical("cat_10", size=5600, exponent=1.1, null_share=0.00),
    Categorical("cat_11", size=150_000, exponent=1.2, null_share=0.03, share=5),
    Categorical("cat_12", size=3200, exponent=1.1, null_share=0.00, share=3),
    Categorical("cat_13", size=27, exponent=1.1, null_share=0.00, share=2),
    Categorical("cat_14", size=15_000, exponent=1.15, null_share=0.00),
    Categorical("cat_15", size=120_000, exponent=1.1, null_share=0.03),
    Categorical("cat_16", size=10, exponent=1.1, null_share=0.00, share=2),
    Categorical("cat_17", size=5600, exponent=1.1, null_share=0.00),
    Categorical("cat_18", size=2100, exponent=1.1, null_share=0.44),
    Categorical("cat_19", size=4, exponent=1.0, null_share=0.44, share=1),
    Categorical("cat_20", size=140_000, exponent=1.2, null_share=0.03),
    Categorical("cat_21", size=18, exponent=1.1, null_share=0.76, share=1),
    Categorical("cat_22", size=15, exponent=1.1, null_share=0.00, share=2),
    Categorical("cat_23", size=50_000, exponent=1.1, null_share=0.03),
    Categorical("cat_24", size=105, exponent=1.1, null_share=0.44, share=2),
    Categorical("cat_25", size=40_000, exponent=1.1, null_share=0.44),
)
USER = Categorical("user_id", size=2000, exponent=0.6, null_share=0.0, share=8)
CROSSES = (
    Cross(("user_id", "cat_0", "cat_4"), ("cat_1", "cat_7", "cat_13"), share=30),
    Cross(("cat_5", "cat_16"), ("cat_12", "cat_22"), share=20),
)

_NUMERIC_TERMS = tuple(column for column in NUMERIC if column.share)
_ID_TERMS = tuple(column for column in (USER, *CATEGORICAL) if column.share)
_SHARES = {number.name: number.share for number in _NUMERIC_TERMS}
_SHARES |= {column.name: column.share for column in _ID_TERMS}
_TOTAL_SHARE = sum(_SHARES.values()) + sum(cross.share for cross in CROSSES)


@dataclass(frozen=True)
class Draws:
    """What consecutive rows hold.

    Attributes:
        counts: [rows] of each numeric column, NaN where it is null.
        ids: [rows] of each categorical column and of ``user_id``, 0 where it is null.
        sessions: [rows], the row with which each row's session begins.
    """

    counts: Mapping[str, Numbers]
    ids: Mapping[str, Index]
    sessions: Index


@dataclass(frozen=True)
class PlantedModel:
    """What ``plant`` has measured.

    Attributes:
        seed: that of the rows.
        centers: mean of each column's raw ``f``.
        deviations: standard deviation of it, a null counted as the mean.
        cross_deviations: standard deviation of each of ``CROSSES``.
        intercept: makes the mean probability of a click ``CLICK_RATE``.
    """

    seed: int
    centers: Mapping[str, float]
    deviations: Mapping[str, float]
    cross_deviations: tuple[float, ...]
    intercept: float


def draw(seed: int, rows: Index) -> Draws:
    """Draws all columns of consecutive ``rows``."""
    sessions = _draw_sessions(seed, rows)
    ids = {USER.name: _draw_ids(seed, USER, sessions)}
    ids |= {column.name: _draw_ids(seed, column, rows) for column in CATEGORICAL}
    counts = {column.name: _draw_counts(seed, column, rows) for column in NUMERIC}
    return Draws(counts, ids, sessions)


def plant(seed: int) -> PlantedModel:
    """Returns the model of a seed; it is the same for any number of rows."""
    draws = draw(seed, _PILOT_ROWS)
    centers, deviations = {}, {}
    for name, raw in _raw_factors(seed, draws):
        centers[name] = float(np.nanmean(raw))
        squares = np.square(np.nan_to_num(raw - centers[name], nan=0.0))
        deviations[name] = float(np.sqrt(squares.mean()))
    model = PlantedModel(seed, centers, deviations, (1.0,) * len(CROSSES), 0.0)
    factors = _factors(model, draws)
    cross_deviations = tuple(float(_product(cross, factors).std()) for cross in CROSSES)
    model = PlantedModel(seed, centers, deviations, cross_deviations, 0.0)
    intercept = _intercept(utility(model, draws))
    return PlantedModel(seed, centers, deviations, cross_deviations, intercept)


def utility(model: PlantedModel, draws: Draws) -> Numbers:
    """Returns [rows]: the log odds of a click."""
    factors = _factors(model, draws)
    total = np.full(len(draws.sessions), model.intercept)
    for name, share in _SHARES.items():
        total += _amplitude(share) * factors[name]
    for cross, deviation in zip(CROSSES, model.cross_deviations, strict=True):
        total += _amplitude(cross.share) / deviation * _product(cross, factors)
    return total


def sigmoid(x: Numbers) -> Numbers:
    """Returns 1 / (1 + exp(-x))."""
    return np.asarray(1.0 / (1.0 + np.exp(-x)))


def _draw_sessions(seed: int, rows: Index) -> Index:
    first = rows[0] // np.uint64(_SESSION_PAGE) * np.uint64(_SESSION_PAGE)
    page = np.arange(first, rows[-1] + np.uint64(1), dtype=np.uint64)
    begins = uniform(stream_key(seed, "session"), page) < 1.0 / _SESSION_LENGTH
    begins |= page % np.uint64(_SESSION_PAGE) == 0
    return np.maximum.accumulate(np.where(begins, page, first))[-len(rows) :]


def _draw_ids(seed: int, column: Categorical, rows: Index) -> Index:
    numbers = uniform(stream_key(seed, column.name), rows)
    ids = zipf(numbers, size=column.size, exponent=column.exponent)
    ids[_nulls(seed, column, rows)] = 0
    return ids


def _draw_counts(seed: int, column: Numeric, rows: Index) -> Numbers:
    odds = uniform(stream_key(seed, column.name), rows)
    odds /= 1.0 - odds
    counts = np.minimum(np.floor(column.median * odds**column.shape), 1e6)
    counts[_nulls(seed, column, rows)] = np.nan
    return counts


def _nulls(seed: int, column: Numeric | Categorical, rows: Index) -> npt.NDArray[np.bool_]:
    return uniform(stream_key(seed, column.name, "null"), rows) < column.null_share


def _raw_factors(seed: int, draws: Draws) -> Iterator[tuple[str, Numbers]]:
    """Yields ``f`` of each column that acts, before it is centred; NaN where it is null."""
    for number in _NUMERIC_TERMS:
        x = np.log1p(draws.counts[number.name]) - np.log1p(number.median)
        yield number.name, np.abs(x) if number.bent else x
    for column in _ID_TERMS:
        ids = draws.ids[column.name]
        weights = bits(stream_key(seed, column.name, "weight"), ids).astype(np.float64)
        weights[ids == 0] = np.nan
        yield column.name, weights


def _factors(model: PlantedModel, draws: Draws) -> dict[str, Numbers]:
    return {
        name: np.nan_to_num((raw - model.centers[name]) / model.deviations[name], nan=0.0)
        for name, raw in _raw_factors(model.seed, draws)
    }


def _product(cross: Cross, factors: Mapping[str, Numbers]) -> Numbers:
    left = np.sum([factors[name] for name in cross.left], axis=0)
    return np.asarray(left * np.sum([factors[name] for name in cross.right], axis=0))


def _amplitude(share: float) -> float:
    return float(UTILITY_DEVIATION * np.sqrt(share / _TOTAL_SHARE))


def _intercept(utilities: Numbers) -> float:
    """Returns what to add for a mean probability of ``CLICK_RATE``, by bisection."""
    low, high = -20.0, 20.0
    while high - low > 1e-9:
        middle = (low + high) / 2
        if sigmoid(utilities + middle).mean() < CLICK_RATE:
            low = middle
        else:
            high = middle
    return low
