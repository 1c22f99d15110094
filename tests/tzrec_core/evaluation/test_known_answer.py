"""Intervals of an evaluation hold the truth, which is known of planted data, as often as said."""

import pytest
import torch
from scipy.stats import binom

from tests.tzrec_core.evaluation.planted import Clicks, configured
from tzrec_core.evaluation.statistics import Columns, statistics_of
from tzrec_core.metrics.bootstrap import interval, paired_difference
from tzrec_core.task_metrics import judged_metrics

REPEATS = 200


def values_of(clicks, metrics, **noise):
    columns = Columns(clicks.scored(**noise))
    return {m.name: statistics_of(m, columns, key="user") for m in metrics}


def is_about_90_percent(count):
    """Whether so many of ``REPEATS`` may be chance, if the true share is from 88 to 92 percent."""
    return binom.ppf(0.0005, REPEATS, 0.88) <= count <= binom.ppf(0.9995, REPEATS, 0.92)


@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_intervals_hold_the_truth_as_often_as_they_say(noise):
    torch.set_num_threads(1)
    metrics = [m for m in judged_metrics(configured()) if m.name in ("auc", "log_loss")]
    large = values_of(Clicks(num_users=50_000, rows_per_user=20, seed=9999), metrics, noise=noise)
    truth = {name: statistics.value for name, statistics in large.items()}

    held = dict.fromkeys(truth, 0)
    for seed in range(REPEATS):
        found = values_of(Clicks(num_users=80, rows_per_user=8, seed=seed), metrics, noise=noise)
        for name, statistics in found.items():
            bounds = interval(statistics, num_replicates=400, level=0.9, seed=seed)
            held[name] += bounds.low <= truth[name] <= bounds.high

    assert all(is_about_90_percent(count) for count in held.values()), held


def test_each_difference_of_equal_models_is_called_chance_about_as_often_as_said():
    metrics = [m for m in judged_metrics(configured()) if m.name == "auc"]
    held = 0
    for seed in range(REPEATS):
        clicks = Clicks(num_users=80, rows_per_user=8, seed=seed)
        one, other = (values_of(clicks, metrics, noise=1.0)["auc"] for _ in range(2))
        found = paired_difference(one, other, num_replicates=400, level=0.9, seed=seed)
        held += found.low <= 0 <= found.high

    assert is_about_90_percent(held), held
