import math

import numpy as np
import pyarrow as pa
import pytest
from scipy.stats import chi2

from tzrec_core.report import drift


def column(values, kind=None):
    return pa.chunked_array([pa.array(values, kind)])


def test_psi_equals_its_formula_bin_by_bin():
    expected, actual = [1, 1, 1, 2, 2, 3, None], [1, 2, 2, 2, 4]
    bins = drift.reference(column(expected), is_number=False)
    counts = drift.count(bins, column(actual))
    shares = {1: (3, 1), 2: (2, 3), 3: (1, 0), "others": (0, 1), "missing": (1, 0)}

    value = 0.0
    for e, a in shares.values():
        e, a = (e + 0.5) / (7 + 2.5), (a + 0.5) / (5 + 2.5)
        value += (a - e) * math.log(a / e)
    assert bins["values"] == [1, 2, 3]
    assert counts.tolist() == [1, 3, 0, 1, 0]
    assert drift.psi(bins, counts).psi == pytest.approx(value)


def test_numbers_are_cut_at_the_deciles_of_the_expected_rows():
    values = np.random.default_rng(0).normal(size=10_000)
    bins = drift.reference(column(values), is_number=True)

    np.testing.assert_allclose(bins["edges"], np.quantile(values, np.arange(1, 10) / 10), atol=1e-2)
    np.testing.assert_allclose(bins["shares"][:-1], 0.1, atol=0.001)
    assert bins["shares"][-1] == 0


def test_a_shift_is_drift_and_the_same_distribution_is_not():
    rng = np.random.default_rng(0)
    bins = drift.reference(column(rng.normal(size=20_000)), is_number=True)
    same = drift.psi(bins, drift.count(bins, column(rng.normal(size=20_000))))
    small = drift.psi(bins, drift.count(bins, column(rng.normal(size=60))))
    shifted = drift.psi(bins, drift.count(bins, column(rng.normal(0.5, 1, size=20_000))))
    far = drift.psi(bins, drift.count(bins, column(rng.normal(2, 1, size=20_000))))

    assert [same.size, small.size, shifted.size, far.size] == ["none", "none", "moderate", "large"]
    # PSI of two normal distributions is the squared shift, up to the loss of cutting at deciles.
    assert 0.20 < shifted.psi < 0.25


def test_what_chance_reaches_is_a_quantile_of_chi_squared():
    bins = drift.reference(column(np.arange(10_000) % 7), is_number=False)
    found = drift.psi(bins, np.array([100] * 7 + [0, 0]))
    assert found.by_chance == pytest.approx(chi2(6).ppf(0.99) * (1 / 700 + 1 / 10_000), rel=0.01)


def test_chance_stays_below_its_limit_99_times_of_100():
    rng = np.random.default_rng(0)
    above = 0
    for _ in range(400):
        bins = drift.reference(column(rng.integers(0, 8, 2000)), is_number=False)
        found = drift.psi(bins, drift.count(bins, column(rng.integers(0, 8, 800))))
        above += found.psi > found.by_chance
    assert above <= 11  # 4 in the mean, 3.5 standard deviations


def test_rows_without_a_value_have_a_bin():
    nan = drift.reference(column([1.0, 2.0, math.nan, math.inf]), is_number=True)
    empty = drift.reference(column([[1, 2], [], [1]]), is_number=False)

    assert nan["shares"][-1] == 0.5
    assert drift.count(empty, column([[], [3], [1, 1]])).tolist() == [2, 0, 1, 1]


def test_values_of_lists_and_keys_of_maps_count():
    lists = drift.reference(column([[1, 2], [1]]), is_number=False)
    maps = drift.reference(
        column([[(1, 0.5), (2, 0.1)], [(1, 1.0)]], pa.map_(pa.int64(), pa.float32())),
        is_number=False,
    )
    assert lists["shares"] == maps["shares"] == pytest.approx([2 / 3, 1 / 3, 0, 0])


def test_only_frequent_values_have_a_bin_of_their_own():
    values = np.repeat(np.arange(100), np.arange(100) + 1)
    bins = drift.reference(column(values), is_number=False)
    assert bins["values"] == list(range(99, 79, -1))
    assert bins["shares"][-2] == pytest.approx(sum(range(1, 81)) / 5050)


@pytest.mark.parametrize("values", [[], [None, None], [1.0, 1.0]])
def test_columns_of_one_value_or_none_have_no_drift(values):
    bins = drift.reference(column(values, pa.float64()), is_number=True)
    found = drift.psi(bins, drift.count(bins, column(values, pa.float64())))
    assert found.size == "none"
    assert not found.psi > 0


def test_text_against_numbers_is_an_error():
    bins = drift.reference(column([1, 2]), is_number=False)
    with pytest.raises(ValueError, match="not int64"):
        drift.count(bins, column(["a"]))
    with pytest.raises(ValueError, match="ranges of numbers"):
        drift.count(drift.reference(column([1.0, 2.0]), is_number=True), column(["a"]))
