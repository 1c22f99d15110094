"""The planted model behind the synthetic click logs: its columns, its draws and its utility.

Nothing is stored: every number is a hash of the seed, the name of what is drawn and a row (or an
id), so any row can be made alone, in any order, by any worker. A hash is turned into a number by
plain arithmetic; no library's random generator is involved.

The utility of a row is a function of the columns that are written, and of nothing else:

    utility = intercept + sum of terms,  each term with mean 0 and a fixed share of the variance

* numeric terms: monotone in some columns, a bump in others (a linear model cannot see those);
* a weight for each id, in small and in long-tailed columns, and for each user;
* crosses: the dot product of two ids' latent vectors, centred so that neither id alone tells
  anything about it. A model without interactions scores them as noise.

A null is worth 0 in every term.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ids = NDArray[np.uint64]

CLICK_RATE = 0.25
UTILITY_STD = 1.9
NUM_USERS = 2000
USER_EXPONENT = 0.6
NUM_PILOT_ROWS = 1 << 15
SESSION_PAGE = 32  # a session never crosses a multiple of this many rows
SESSION_START = 1 / 6


@dataclass(frozen=True)
class Numeric:
    """A column of counts, log-logistic: ``median * odds ** shape`` with odds from a uniform."""

    name: str
    median: float
    shape: float
    nulls: float
    curve: str  # "line" | "bump"
    share: float


@dataclass(frozen=True)
class Categorical:
    """A column of ids, the k-th most frequent with a probability near ``k ** -exponent``."""

    name: str
    vocabulary: int
    exponent: float
    nulls: float
    share: float


@dataclass(frozen=True)
class Cross:
    """Two columns whose ids have latent vectors of ``rank`` (at most 4) numbers each."""

    left: str
    right: str
    rank: int
    share: float


NUMERIC = (
    Numeric("int_0", 2, 0.9, 0.45, "line", 1.0),
    Numeric("int_1", 4, 1.2, 0.00, "bump", 1.0),
    Numeric("int_2", 8, 0.9, 0.21, "line", 0.5),
    Numeric("int_3", 5, 0.6, 0.21, "line", 0.5),
    Numeric("int_4", 2500, 1.1, 0.03, "bump", 1.5),
    Numeric("int_5", 40, 1.0, 0.22, "line", 0.5),
    Numeric("int_6", 4, 0.9, 0.04, "bump", 1.0),
    Numeric("int_7", 9, 0.6, 0.00, "line", 0.0),
    Numeric("int_8", 45, 0.8, 0.04, "bump", 1.0),
    Numeric("int_9", 1, 0.3, 0.45, "line", 0.0),
    Numeric("int_10", 2, 0.6, 0.04, "line", 0.5),
    Numeric("int_11", 1, 0.5, 0.76, "line", 0.5),
    Numeric("int_12", 6, 0.6, 0.21, "line", 0.0),
)

CATEGORICAL = (
    Categorical("cat_0", 1460, 1.1, 0.00, 3.0),
    Categorical("cat_1", 583, 1.05, 0.00, 3.0),
    Categorical("cat_2", 200_000, 1.15, 0.03, 4.0),
    Categorical("cat_3", 100_000, 1.2, 0.03, 4.0),
    Categorical("cat_4", 305, 1.1, 0.00, 2.0),
    Categorical("cat_5", 24, 1.1, 0.12, 2.0),
    Categorical("cat_6", 12_500, 1.1, 0.00, 5.0),
    Categorical("cat_7", 633, 1.2, 0.00, 2.0),
    Categorical("cat_8", 3, 1.0, 0.00, 1.0),
    Categorical("cat_9", 30_000, 1.1, 0.00, 4.0),
    Categorical("cat_10", 5600, 1.1, 0.00, 3.0),
    Categorical("cat_11", 150_000, 1.2, 0.03, 4.0),
    Categorical("cat_12", 3200, 1.1, 0.00, 3.0),
    Categorical("cat_13", 27, 1.1, 0.00, 2.0),
    Categorical("cat_14", 15_000, 1.15, 0.00, 3.0),
    Categorical("cat_15", 120_000, 1.1, 0.03, 0.0),
    Categorical("cat_16", 10, 1.1, 0.00, 1.0),
    Categorical("cat_17", 5600, 1.1, 0.00, 0.0),
    Categorical("cat_18", 2100, 1.1, 0.44, 1.0),
    Categorical("cat_19", 4, 1.0, 0.44, 0.5),
    Categorical("cat_20", 140_000, 1.2, 0.03, 0.0),
    Categorical("cat_21", 18, 1.1, 0.76, 0.5),
    Categorical("cat_22", 15, 1.1, 0.00, 1.0),
    Categorical("cat_23", 50_000, 1.1, 0.03, 0.0),
    Categorical("cat_24", 105, 1.1, 0.44, 1.0),
    Categorical("cat_25", 40_000, 1.1, 0.44, 0.0),
)

USER_SHARE = 10.0

CROSSES = (
    Cross("cat_1", "cat_13", 3, 8.0),
    Cross("cat_4", "cat_22", 3, 8.0),
    Cross("cat_0", "cat_5", 3, 7.0),
    Cross("cat_7", "cat_16", 3, 7.0),
    Cross("user_id", "cat_24", 2, 2.0),
)


def key(seed: int, *names: str) -> np.uint64:
    """Returns the hash key of one stream of numbers."""
    digest = hashlib.sha256("/".join((str(seed), *names)).encode()).digest()
    return np.uint64(int.from_bytes(digest[:8], "little"))


def mixed(stream: np.uint64, index: Ids) -> Ids:
    """Returns 64 random bits for each index: the output function of SplitMix64 (Steele 2014)."""
    bits = index * np.uint64(0x9E3779B97F4A7C15)
    bits += stream
    bits ^= bits >> np.uint64(30)
    bits *= np.uint64(0xBF58476D1CE4E5B9)
    bits ^= bits >> np.uint64(27)
    bits *= np.uint64(0x94D049BB133111EB)
    bits ^= bits >> np.uint64(31)
    return bits


def uniform(stream: np.uint64, index: Ids) -> Floats:
    """Returns numbers of the open interval (0, 1)."""
    numbers = (mixed(stream, index) >> np.uint64(12)).astype(np.float64)
    numbers += 0.5
    numbers *= 2.0**-52
    return numbers


def zipf(numbers: Floats, size: int, exponent: float) -> Ids:
    """Turns uniform numbers into ids 1..size by inverting a power law cut at ``size``."""
    if exponent == 1.0:
        ids = (size + 1.0) ** numbers
    else:
        power = 1.0 - exponent
        ids = (numbers * ((size + 1.0) ** power - 1.0) + 1.0) ** (1.0 / power)
    return np.minimum(ids, size).astype(np.uint64)


def latent(stream: np.uint64, ids: Ids, rank: int) -> Floats:
    """Returns [rank, len(ids)] numbers of (-1, 1), 16 bits of one hash each."""
    words = mixed(stream, ids).view(np.uint16).reshape(-1, 4)[:, :rank].T
    return (words.astype(np.float64) - 32767.5) / 32768.0


def draw_numeric(seed: int, column: Numeric, rows: Ids) -> Floats:
    """Returns the counts of ``rows``; NaN where the column is null."""
    odds = uniform(key(seed, column.name), rows)
    odds /= 1.0 - odds
    counts = np.minimum(np.floor(column.median * odds**column.shape), 1e6)
    if column.nulls:
        counts[uniform(key(seed, column.name, "null"), rows) < column.nulls] = np.nan
    return counts


def draw_categorical(seed: int, column: Categorical, rows: Ids) -> Ids:
    """Returns the ids of ``rows``, 1 the most frequent; 0 where the column is null."""
    ids = zipf(uniform(key(seed, column.name), rows), column.vocabulary, column.exponent)
    if column.nulls:
        ids[uniform(key(seed, column.name, "null"), rows) < column.nulls] = 0
    return ids


def draw_sessions(seed: int, rows: Ids) -> Ids:
    """Returns the row with which each row's session begins; ``rows`` must be consecutive."""
    first = int(rows[0]) // SESSION_PAGE * SESSION_PAGE
    page = np.arange(first, int(rows[-1]) + 1, dtype=np.uint64)
    starts = uniform(key(seed, "session"), page) < SESSION_START
    starts |= page % np.uint64(SESSION_PAGE) == 0
    begins = np.maximum.accumulate(np.where(starts, page, np.uint64(first)))
    return begins[len(page) - len(rows) :]


@dataclass(frozen=True)
class PlantedModel:
    """What a seed fixes: the mean of each term before centring, its scale, the intercept."""

    seed: int
    means: Mapping[str, Floats]
    scales: Mapping[str, float]
    intercept: float


def draw(seed, rows):
    columns = {column.name: draw_numeric(seed, column, rows) for column in NUMERIC}
    columns |= {column.name: draw_categorical(seed, column, rows) for column in CATEGORICAL}
    columns["session"] = draw_sessions(seed, rows)
    columns["user_id"] = zipf(
        uniform(key(seed, "user"), columns["session"]), NUM_USERS, USER_EXPONENT
    )
    return columns


def _factors(seed, term, columns):
    """Returns (name, values, present) of the factors whose product is the term."""
    if isinstance(term, Numeric):
        x = columns[term.name]
        present = ~np.isnan(x)
        t = (np.log1p(np.where(present, x, 0.0)) - np.log1p(term.median)) / (term.shape * 1.8)
        v = np.clip(t, -3, 3) if term.curve == "line" else np.exp(-2 * (t - 0.3) ** 2)
        return [(term.name, v[None], present)]
    if isinstance(term, Categorical):
        return [
            (
                term.name,
                latent(key(seed, term.name, "weight"), columns[term.name], 1),
                columns[term.name] > 0,
            )
        ]
    return [
        (
            f"{c} in {term.left} x {term.right}",
            latent(key(seed, term.left, term.right, c), columns[c], term.rank),
            columns[c] > 0,
        )
        for c in (term.left, term.right)
    ]


TERMS = tuple(
    t
    for t in (
        *NUMERIC,
        *CATEGORICAL,
        Categorical("user_id", NUM_USERS, USER_EXPONENT, 0.0, USER_SHARE),
        *CROSSES,
    )
    if t.share > 0
)


def _name(t):
    return f"{t.left}x{t.right}" if isinstance(t, Cross) else t.name


def _term(seed, term, columns, means):
    product = 1.0
    for name, values, present in _factors(seed, term, columns):
        product = product * (values - means[name][:, None]) * present
    return product.sum(axis=0)


def plant(seed):
    columns = draw(seed, np.arange(NUM_PILOT_ROWS, dtype=np.uint64) + np.uint64(1 << 62))
    means = {
        name: values[:, present].mean(axis=1)
        for t in TERMS
        for name, values, present in _factors(seed, t, columns)
    }
    total = sum(t.share for t in TERMS)
    scales = {
        _name(t): UTILITY_STD * (t.share / total) ** 0.5 / _term(seed, t, columns, means).std()
        for t in TERMS
    }
    u = sum(scales[_name(t)] * _term(seed, t, columns, means) for t in TERMS)
    low, high = -10.0, 10.0
    for _ in range(60):
        mid = (low + high) / 2
        if (1 / (1 + np.exp(-u - mid))).mean() < CLICK_RATE:
            low = mid
        else:
            high = mid
    return PlantedModel(seed, means, scales, low)


def utility(model, columns):
    u = model.intercept
    for t in TERMS:
        u = u + model.scales[_name(t)] * _term(model.seed, t, columns, model.means)
    return u
