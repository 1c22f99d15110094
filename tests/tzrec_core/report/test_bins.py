import numpy as np
import pytest
from scipy.special import expit
from scipy.stats import binomtest

from tzrec_core.report.bins import calibration_bins, equal_parts, histograms, wilson_interval


def test_equal_parts_keep_ties_together_and_have_about_equal_numbers():
    values = np.random.default_rng(0).integers(0, 50, 5000).astype(float)
    part, edges = equal_parts(values, 10)

    for value in np.unique(values):
        assert len(np.unique(part[values == value])) == 1
    assert np.bincount(part).min() > 300
    assert (np.diff(edges) > 0).all()
    for index, edge in enumerate(edges):
        assert values[part == index + 1].min() == edge


def test_constant_values_are_one_part():
    part, edges = equal_parts(np.full(7, 0.3), 10)
    assert len(edges) == 0
    assert (part == 0).all()


def test_calibration_bins_equal_a_loop_over_the_rows():
    rng = np.random.default_rng(0)
    preds = rng.random(500).round(2)
    target, groups = (rng.random(500) < preds).astype(int), rng.integers(0, 60, 500)
    found = calibration_bins(preds, target, groups, num_bins=6)
    part, _ = equal_parts(preds, 6)

    assert found.counts.sum() == 500
    for b in range(len(found.counts)):
        here = part == b
        n, p = here.sum(), target[here].mean()
        sums = [(target[here & (groups == g)] - p).sum() for g in set(groups[here].tolist())]
        variance = len(sums) / (len(sums) - 1) * sum(s * s for s in sums) / n**2
        effective = n / max(1, variance / (p * (1 - p) / n))
        low, high = wilson_interval(np.array([p]), np.array([effective]), z=1.959964)
        assert found.predicted[b] == pytest.approx(preds[here].mean())
        assert found.observed[b] == pytest.approx(p)
        assert found.low[b] == pytest.approx(low[0], abs=1e-6)
        assert found.high[b] == pytest.approx(high[0], abs=1e-6)
    expected = sum(found.counts * abs(found.predicted - found.observed)) / 500
    assert found.error == pytest.approx(expected)


@pytest.mark.parametrize(("positives", "rows"), [(0, 20), (3, 50), (20, 20)])
def test_wilsons_interval_is_scipys(positives, rows):
    low, high = wilson_interval(np.array([positives / rows]), np.array([rows]), z=1.959963985)
    expected = binomtest(positives, rows).proportion_ci(method="wilson")
    assert (low[0], high[0]) == pytest.approx((expected.low, expected.high))


def test_intervals_cover_planted_probabilities_at_their_rate():
    """200 data sets of a known model; the share of bins whose interval holds the truth."""
    rng = np.random.default_rng(0)
    inside = []
    for _ in range(200):
        truth = expit(rng.normal(-1, 1, 600))
        target = (rng.random(600) < truth).astype(int)
        found = calibration_bins(truth, target, None, num_bins=8)
        inside += ((found.low <= found.predicted) & (found.predicted <= found.high)).tolist()
    # 1600 bins: three standard errors are 1.6 %.
    assert 0.934 < np.mean(inside) < 0.975


def test_intervals_of_alike_rows_cover_where_those_that_ignore_groups_do_not():
    """Users whose taste the model does not know: the truth is the mean over many users."""
    rng = np.random.default_rng(0)
    grouped, ignored = [], []
    truth = expit(np.random.default_rng(1).normal(-0.5, 1.5, 10**6)).mean()
    for _ in range(200):
        groups = np.repeat(np.arange(60), rng.integers(1, 20, 60))
        chance = expit(rng.normal(-0.5, 1.5, 60))[groups]
        target = (rng.random(len(groups)) < chance).astype(int)
        preds = np.full(len(groups), 0.4)
        for covered, keys in ((grouped, groups), (ignored, None)):
            found = calibration_bins(preds, target, keys)
            covered.append(found.low[0] <= truth <= found.high[0])
    # Three standard errors of 200 repeats are 4.6 %.
    assert 0.90 < np.mean(grouped) <= 0.99
    assert np.mean(ignored) < 0.85


def test_intervals_of_a_regression_are_those_of_a_mean():
    rng = np.random.default_rng(0)
    target = rng.normal(3, 2, 400)
    found = calibration_bins(np.zeros(400), target, None)
    error = target.std(ddof=1) / 20
    assert found.low[0] == pytest.approx(target.mean() - 1.959964 * error, rel=1e-6)
    assert found.high[0] == pytest.approx(target.mean() + 1.959964 * error, rel=1e-6)


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_still_has_intervals(label):
    found = calibration_bins(np.full(30, 0.5), np.full(30, label), None)
    assert (found.low[0], found.high[0]) == pytest.approx(
        tuple(binomtest(30 * label, 30).proportion_ci(method="wilson")), abs=1e-6
    )


@pytest.mark.parametrize("target", [np.arange(30) % 2, np.zeros(30), np.ones(30), np.arange(30)])
def test_a_bin_of_one_group_has_no_interval(target):
    preds, groups = np.repeat([0.1, 0.9], [14, 16]), np.repeat([0, 1], [14, 16])
    groups[20:] = np.arange(10) + 2  # the second bin has several groups
    found = calibration_bins(preds, target, groups, num_bins=2)

    assert np.isnan([found.low[0], found.high[0]]).all()
    assert np.isfinite([found.low[1], found.high[1]]).all()
    assert np.isfinite(calibration_bins(preds, target, None, num_bins=2).low).all()


def test_histograms_hold_every_row_of_each_kind():
    rng = np.random.default_rng(0)
    scores = np.append(rng.normal(size=1000), [1e6, -1e6])
    edges, first, second = histograms(scores, np.arange(1002) % 3 == 0)

    assert first.sum() == pytest.approx(1)
    assert second.sum() == pytest.approx(1)
    assert edges[-1] - edges[0] < 20


def test_histograms_of_constant_scores_and_one_kind():
    edges, first, second = histograms(np.full(5, 0.3), np.zeros(5, bool))
    assert first.max() == 1
    assert second.sum() == 0
    assert (np.diff(edges) > 0).all()
