import math
import warnings

import numpy as np
import pytest
import torch
from scipy import stats

from tzrec_core.metrics.bootstrap import MAX_UNITS, draw_units, interval, paired_difference
from tzrec_core.metrics.error import absolute_error
from tzrec_core.metrics.group_statistics import (
    auc_statistics,
    calibration_statistics,
    group_mean_statistics,
    mean_statistics,
    xauc_statistics,
)
from tzrec_core.metrics.grouped_auc import grouped_auc_values

NUM_REPEATS = 200


def within_three_sigma(share, probability, repeats=NUM_REPEATS):
    return abs(share - probability) < 3 * math.sqrt(probability * (1 - probability) / repeats)


def mean_of(values):
    return mean_statistics("mean", torch.as_tensor(values), keys=None)


def draw_metrics(generator, *, num_users, by_row):
    """Metrics of users of 5 to 15 rows whose labels, scores and values are alike.

    Returns the statistics by ("users" or "rows", name of the metric) and the metrics' true values.
    """
    sizes = torch.from_numpy(generator.integers(5, 16, num_users))
    users = torch.arange(num_users).repeat_interleave(sizes)

    def normal(scale):
        return torch.from_numpy(generator.normal(0, scale, len(users)))

    def of_user(scale):
        return torch.from_numpy(generator.normal(0, scale, num_users))[users]

    rate = torch.from_numpy(generator.choice([0.1, 0.9], num_users))[users]
    target = (torch.from_numpy(generator.random(len(users))) < rate).long()
    score = target + of_user(1) + normal(1)
    lift = (1 + of_user(0.7)) * target + normal(1)
    value = of_user(1) + normal(1)
    forecast = value + of_user(1) + normal(1)
    probability = rate * torch.from_numpy(generator.choice([0.5, 1.0], num_users))[users]

    within = grouped_auc_values(lift, target, users, weighting="groups")
    metrics = {("users", "grouped_auc"): group_mean_statistics("grouped_auc", within)}
    for way, keys in [("users", users), ("rows", None)][: 1 + by_row]:
        metrics[way, "auc"] = auc_statistics(score, target, keys)
        metrics[way, "xauc"] = xauc_statistics(forecast, value, keys)
        metrics[way, "mean"] = mean_statistics("mean", absolute_error(forecast, value), keys)
        metrics[way, "calibration"] = calibration_statistics(probability, target, keys)
    cdf = stats.norm.cdf
    truth = {
        "auc": cdf(1 / math.sqrt(2 * 2)),
        "xauc": 0.5 + math.asin(math.sqrt(0.5)) / math.pi,  # Kendall's tau of two normal variables
        "mean": math.sqrt(2 * 2 / math.pi),
        "calibration": 0.75,
        "grouped_auc": cdf(1 / math.sqrt(2 + 0.7**2)),
    }
    return metrics, truth


def test_intervals_over_users_cover_the_truth_at_their_level_and_those_over_rows_do_not():
    generator = np.random.default_rng(0)
    covered = {}
    for repeat in range(NUM_REPEATS):
        metrics, truth = draw_metrics(generator, num_users=50, by_row=repeat < 50)
        for (way, name), metric in metrics.items():
            found = interval(metric, num_replicates=200, level=0.9, seed=repeat)
            covered.setdefault((way, name), []).append(found.low <= truth[name] <= found.high)
    for (way, name), hits in covered.items():
        share = sum(hits) / len(hits)
        if way == "users":
            assert within_three_sigma(share, 0.9), (name, share)
        else:
            assert share < 0.75, (name, share)


def test_with_ten_groups_the_interval_of_a_mean_is_students():
    # Evenly spread, so that no group stands out; scaled to the standard error that t uses.
    values = stats.norm.ppf((np.arange(10) + 0.5) / 10)
    found = interval(mean_of(values), num_replicates=20_000, seed=0)
    low, high = stats.t.interval(0.95, df=9, loc=0, scale=stats.sem(values))
    assert (found.low, found.high) == pytest.approx((low, high), rel=0.06)


def test_a_few_large_groups_among_many_small_ones_widen_the_interval():
    generator = np.random.default_rng(0)
    effects, sizes = generator.normal(size=500), np.ones(500, dtype=int)
    sizes[:5] = 400
    users = torch.arange(500).repeat_interleave(torch.from_numpy(sizes))
    statistics = mean_statistics("mean", torch.from_numpy(effects)[users], users)
    found = interval(statistics, num_replicates=4000, seed=0)
    _, drawings = draw_units(statistics.sums, num_replicates=4000, seed=0)
    low, high = statistics.formula(drawings).quantile(torch.tensor([0.025, 0.975]).double())
    assert found.high - found.low > 1.2 * (high - low)


def test_the_same_seed_gives_the_same_interval_and_another_seed_another():
    statistics = mean_of(np.random.default_rng(0).normal(size=300))
    first = interval(statistics, seed=0)
    assert interval(statistics, seed=0) == first
    assert interval(statistics, seed=1) != first


def test_drawings_do_not_depend_on_how_many_are_made_at_a_time():
    # 3000 groups are drawn 87 times at a time.
    sums = torch.rand(3000, 2, dtype=torch.float64)
    units, drawings = draw_units(sums, num_replicates=200, seed=0)
    _, fewer = draw_units(sums, num_replicates=100, seed=0)
    assert torch.equal(units, sums)
    torch.testing.assert_close(drawings[:100], fewer, rtol=1e-14, atol=0)


def test_drawings_are_of_whole_groups_as_many_as_there_are():
    _, counts = draw_units(torch.eye(40, dtype=torch.float64), num_replicates=2000, seed=0)
    assert torch.equal(counts, counts.round())
    assert torch.equal(counts.sum(dim=1), torch.full((2000,), 40.0, dtype=torch.float64))
    # Each count is binomial of 40 trials and probability 1/40.
    expected = stats.binom.pmf(np.arange(8), 40, 1 / 40) * counts.numel()
    found = torch.bincount(counts.long().flatten(), minlength=8)[:8].numpy()
    assert (np.abs(found - expected) < 4 * np.sqrt(expected) + 4).all()


def test_bundles_of_many_groups_vary_as_the_groups_do():
    generator = np.random.default_rng(0)
    values = torch.from_numpy(generator.lognormal(sigma=1.5, size=5 * MAX_UNITS + 7))
    statistics = mean_of(values)
    units, drawings = draw_units(statistics.sums, num_replicates=1000, seed=0)
    assert len(units) == MAX_UNITS
    torch.testing.assert_close(units.sum(dim=0), statistics.sums.sum(dim=0))
    standard_error = values.std() / math.sqrt(len(values))
    # 1000 replicates know it to 1 / sqrt(2000); three times that.
    found = statistics.formula(drawings).std().item()
    assert found == pytest.approx(standard_error.item(), rel=0.07)


def draw_models(generator, noise):
    """Returns the mean losses of two equally good models on the same 60 users."""
    users = torch.arange(60).repeat_interleave(5)
    hardness = torch.from_numpy(generator.exponential(size=60))[users]
    return [
        mean_statistics("loss", hardness + torch.from_numpy(generator.normal(0, noise, 300)), users)
        for _ in range(2)
    ]


def test_equal_models_differ_significantly_at_the_nominal_rate():
    generator = np.random.default_rng(0)
    p_values = np.array(
        [
            paired_difference(
                *draw_models(generator, noise=0.5), num_replicates=200, seed=i
            ).p_value
            for i in range(NUM_REPEATS)
        ]
    )
    assert within_three_sigma((p_values < 0.1).mean(), 0.1)
    assert within_three_sigma((p_values < 0.5).mean(), 0.5)


def test_pairing_finds_a_difference_that_two_intervals_would_not_show():
    generator = np.random.default_rng(0)
    worse, better = draw_models(generator, noise=0.1)
    worse.sums[:, 0] += 0.1 * worse.sums[:, 1]  # every row's loss
    found = paired_difference(worse, better, seed=0)
    assert found.value == pytest.approx(worse.value - better.value, abs=1e-12)
    assert 0 < found.low < 0.1 < found.high
    assert found.p_value < 0.01
    of_worse, of_better = interval(worse, seed=0), interval(better, seed=0)
    assert of_worse.low < of_better.high  # they overlap
    assert found.high - found.low < (of_worse.high - of_worse.low) / 5


def test_the_p_value_is_the_level_at_which_the_interval_ends_at_0():
    models = draw_models(np.random.default_rng(3), noise=0.5)
    p_value = paired_difference(*models, seed=0).p_value
    assert 0.01 < p_value < 0.9
    found = paired_difference(*models, level=1 - p_value, seed=0)
    assert min(abs(found.low), abs(found.high)) < 0.02 * (found.high - found.low)


def test_a_model_does_not_differ_from_itself():
    generator = np.random.default_rng(0)
    statistics = mean_of(generator.normal(size=1000))
    found = paired_difference(statistics, statistics, seed=0)
    assert (found.value, found.low, found.high, found.p_value) == (0, 0, 0, 1)


def test_models_of_other_groups_or_metrics_are_not_compared():
    with pytest.raises(ValueError, match="same groups, got 3 and 4"):
        paired_difference(mean_of([1.0, 2, 3]), mean_of([1.0, 2, 3, 4]), seed=0)
    with pytest.raises(ValueError, match="mean is not error"):
        paired_difference(
            mean_of([1.0]), mean_statistics("error", torch.tensor([1.0]), None), seed=0
        )


@pytest.mark.parametrize(
    ("preds", "target", "keys", "message"),
    [
        ([], [], [], "it is nan"),
        ([0.1, 0.2, 0.3], [1, 1, 1], [1, 2, 3], "it is nan"),
        ([0.1, 0.2, 0.3], [0, 1, 1], [5, 5, 5], "without one of its groups"),
        ([0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [1, 2, 3, 3], "without one of its groups"),
    ],
)
def test_where_groups_are_too_few_there_is_one_warning_and_no_interval(
    preds, target, keys, message
):
    statistics = auc_statistics(
        torch.tensor(preds), torch.tensor(target), torch.tensor(keys, dtype=torch.int64)
    )
    with pytest.warns(UserWarning, match=f"auc has no confidence interval: {message}") as warned:
        found = interval(statistics, seed=0)
    assert len(warned) == 1
    assert math.isnan(found.value) == math.isnan(statistics.value)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    with pytest.warns(UserWarning, match="difference of auc has no confidence interval") as warned:
        difference = paired_difference(statistics, statistics, seed=0)
    assert len(warned) == 1
    assert math.isnan(difference.low)
    assert math.isnan(difference.p_value)


def test_replicates_without_a_value_are_left_out():
    # Two of 30 groups have positives: one draw in seven has neither.
    target = torch.zeros(30, dtype=torch.int64)
    target[:2] = 1
    statistics = auc_statistics(torch.linspace(1, 0, 30), target, torch.arange(30))
    with warnings.catch_warnings(action="error"):
        found = interval(statistics, seed=0)
    assert (found.low, found.value, found.high) == (1, 1, 1)


@pytest.mark.parametrize("level", [0.0, 1.0, 95])
def test_a_level_outside_0_and_1_is_refused(level):
    with pytest.raises(ValueError, match=r"level must be in \(0, 1\), got"):
        interval(mean_of([1.0, 2.0]), level=level, seed=0)


def test_too_few_replicates_for_the_level_are_refused():
    with pytest.raises(ValueError, match=r"num_replicates must be 200 or more for level 0\.99"):
        interval(mean_of([1.0, 2.0]), level=0.99, num_replicates=100, seed=0)
