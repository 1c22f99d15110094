import math

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.accuracy import binary_hits
from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.bootstrap import draw_units
from tzrec_core.metrics.error import absolute_error, squared_error
from tzrec_core.metrics.group_statistics import (
    auc_statistics,
    calibration_statistics,
    group_mean_statistics,
    mean_statistics,
    normalized_entropy_statistics,
    xauc_statistics,
)
from tzrec_core.metrics.grouped_auc import grouped_auc_sums, grouped_auc_values
from tzrec_core.metrics.grouped_xauc import grouped_xauc_sums, grouped_xauc_values
from tzrec_core.metrics.log_loss import row_log_loss
from tzrec_core.metrics.ndcg import ndcg_sums, ndcg_values
from tzrec_core.metrics.xauc import xauc


def entropy_ratio(preds, label):
    shares = label.double().mean()
    return log_loss(label, preds) / -(shares.xlogy(shares) + (1 - shares).xlogy(1 - shares))


# Each: its statistics, and the metric itself, of probabilities, values, labels and keys.
LINEAR = {
    "mae": (
        lambda p, v, y, k: mean_statistics("mae", absolute_error(p, v), k),
        lambda p, v, y, k: (p - v).abs().mean(),
    ),
    "mse": (
        lambda p, v, y, k: mean_statistics("mse", squared_error(p, v), k),
        lambda p, v, y, k: (p - v).square().mean(),
    ),
    "accuracy": (
        lambda p, v, y, k: mean_statistics("accuracy", binary_hits(p, y, threshold=0.5), k),
        lambda p, v, y, k: ((p > 0.5) == y).double().mean(),
    ),
    "log_loss": (
        lambda p, v, y, k: mean_statistics("log_loss", row_log_loss(p, y, eta=1e-12), k),
        lambda p, v, y, k: log_loss(y, p),
    ),
    "normalized_entropy": (
        lambda p, v, y, k: normalized_entropy_statistics(p, y, k, eta=1e-12),
        lambda p, v, y, k: entropy_ratio(p, y),
    ),
    "calibration": (
        lambda p, v, y, k: calibration_statistics(p, y, k),
        lambda p, v, y, k: p.sum() / y.sum(),
    ),
    "grouped_auc": (
        lambda p, v, y, k: group_mean_statistics(
            "grouped_auc", grouped_auc_values(p, y, k, weighting="groups")
        ),
        lambda p, v, y, k: grouped_auc_sums(p, y, k, weighting="groups").value,
    ),
    "grouped_auc_by_rows": (
        lambda p, v, y, k: group_mean_statistics(
            "grouped_auc", grouped_auc_values(p, y, k, weighting="rows")
        ),
        lambda p, v, y, k: grouped_auc_sums(p, y, k, weighting="rows").value,
    ),
    "grouped_xauc": (
        lambda p, v, y, k: group_mean_statistics("grouped_xauc", grouped_xauc_values(p, v, k)),
        lambda p, v, y, k: grouped_xauc_sums(p, v, k).value,
    ),
    "ndcg": (
        lambda p, v, y, k: group_mean_statistics("ndcg", ndcg_values(p, y, k, top_k=3)),
        lambda p, v, y, k: ndcg_sums(p, y, k, top_k=3).value,
    ),
}
OVER_PAIRS = {
    "auc": (
        lambda p, v, y, k: auc_statistics(p, y, k),
        lambda p, v, y, k: roc_auc_score(y, p),
    ),
    "xauc": (
        lambda p, v, y, k: xauc_statistics(p, v, k),
        lambda p, v, y, k: xauc(p, v),
    ),
    "xauc_of_untied": (
        lambda p, v, y, k: xauc_statistics(p, v, k, exclude_tied_targets=True),
        lambda p, v, y, k: xauc(p, v, exclude_tied_targets=True),
    ),
}


def draw_rows(num_groups, *, max_rows=12):
    """Rows of users that differ; every user has both labels; ties in probabilities and values."""
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(2, max_rows, (num_groups,), generator=generator)
    keys = torch.arange(num_groups).repeat_interleave(sizes)
    rows = len(keys)

    def of_user(scale):
        return scale * torch.randn(num_groups, generator=generator, dtype=torch.float64)[keys]

    signal = torch.randn(rows, generator=generator, dtype=torch.float64) + of_user(0.7)
    noise = torch.randn(rows, generator=generator, dtype=torch.float64) + of_user(0.5)
    label = (signal > torch.randn(rows, generator=generator)).long()
    starts = sizes.cumsum(0) - sizes
    label[starts], label[starts + 1] = 0, 1
    probability = torch.sigmoid(((signal + noise) * 8).round() / 10)
    value = (signal * 6).round() / 3
    return probability, value, label, keys


def draw_again(columns, counts):
    """Rows of each group as often as it is drawn, each time as a group of its own."""
    *columns, keys = columns
    copies = counts.long()[keys]
    row = torch.arange(len(keys)).repeat_interleave(copies)
    copy = torch.arange(len(row)) - (copies.cumsum(0) - copies)[row]
    return *(column[row] for column in columns), keys[row] * 100 + copy


@pytest.mark.parametrize("name", [*LINEAR, *OVER_PAIRS])
def test_the_value_is_the_metric_itself(name):
    statistics, metric = {**LINEAR, **OVER_PAIRS}[name]
    columns = draw_rows(30)
    assert statistics(*columns).value == pytest.approx(float(metric(*columns)), rel=1e-12)


@pytest.mark.parametrize("name", LINEAR)
def test_replicates_are_the_metric_of_the_groups_drawn(name):
    statistics, metric = LINEAR[name]
    columns = draw_rows(30)
    found = statistics(*columns)
    _, drawings = draw_units(found.sums, num_replicates=20, seed=0)
    _, counts = draw_units(torch.eye(30, dtype=torch.float64), num_replicates=20, seed=0)
    expected = [float(metric(*draw_again(columns, count))) for count in counts]
    assert found.formula(drawings).tolist() == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("name", OVER_PAIRS)
def test_replicates_of_metrics_over_pairs_vary_as_the_metric_of_the_groups_drawn(name):
    statistics, metric = OVER_PAIRS[name]
    columns = draw_rows(200)
    found = statistics(*columns)
    _, drawings = draw_units(found.sums, num_replicates=300, seed=0)
    _, counts = draw_units(torch.eye(200, dtype=torch.float64), num_replicates=300, seed=0)
    replicates = found.formula(drawings)
    expected = np.array([float(metric(*draw_again(columns, count))) for count in counts])
    # The same drawings: what differs is the term that the projection leaves out.
    assert np.corrcoef(replicates, expected)[0, 1] > 0.995
    assert replicates.std().item() == pytest.approx(expected.std(ddof=1), rel=0.03)
    assert abs(replicates.mean().item() - expected.mean()) < 0.2 * expected.std()


@pytest.mark.parametrize("name", ["mae", "normalized_entropy", *OVER_PAIRS])
def test_rows_without_a_key_are_groups_of_their_own(name):
    statistics, _ = {**LINEAR, **OVER_PAIRS}[name]
    *columns, keys = draw_rows(20)
    keys[::3] = NULL_ID
    own = torch.where(keys == NULL_ID, 1000 + torch.arange(len(keys)), keys)
    assert torch.equal(statistics(*columns, keys).sums, statistics(*columns, own).sums)
    rows = statistics(*columns, torch.arange(len(keys)))
    assert torch.equal(statistics(*columns, None).sums, rows.sums)


def test_normalized_entropy_of_several_classes_is_that_of_the_formula():
    generator = torch.Generator().manual_seed(0)
    preds = torch.rand(50, 4, generator=generator, dtype=torch.float64).softmax(dim=1)
    target = torch.randint(4, (50,), generator=generator)
    shares = np.bincount(target) / 50
    expected = log_loss(target, preds) / -(shares * np.log(shares)).sum()
    found = normalized_entropy_statistics(preds, target, None, eta=1e-12)
    assert found.value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_every_float_type_is_compared_as_it_is(dtype):
    preds, _, label, keys = draw_rows(20)
    preds = preds.to(dtype)
    expected = exact_auc(preds, label).item()
    assert auc_statistics(preds, label, keys).value == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(
    "statistics",
    [
        mean_statistics("mean", torch.empty(0), None),
        auc_statistics(torch.rand(3), torch.ones(3), None),
        xauc_statistics(torch.rand(1), torch.rand(1), None),
        xauc_statistics(torch.rand(3), torch.ones(3), None, exclude_tied_targets=True),
        normalized_entropy_statistics(torch.rand(3), torch.ones(3).long(), None, eta=1e-12),
        calibration_statistics(torch.rand(3), torch.zeros(3), None),
        group_mean_statistics(
            "grouped_auc",
            grouped_auc_values(
                torch.rand(3), torch.ones(3), torch.tensor([1, 1, 2]), weighting="groups"
            ),
        ),
    ],
    ids=lambda statistics: statistics.name,
)
def test_without_a_value_it_is_nan(statistics):
    assert math.isnan(statistics.value)


def test_nan_and_targets_that_are_no_labels_are_refused():
    preds, bad = torch.rand(3), torch.tensor([0.1, math.nan, 0.2])
    label, other = torch.tensor([0, 1, 1]), torch.tensor([0, 1, 7])
    for statistics in (
        lambda: mean_statistics("auc", bad, None),
        lambda: auc_statistics(bad, label, None),
        lambda: xauc_statistics(preds, bad, None),
        lambda: normalized_entropy_statistics(bad, label, None, eta=1e-12),
        lambda: calibration_statistics(bad, label, None),
    ):
        with pytest.raises(ValueError, match="1 predictions or targets are NaN"):
            statistics()
    for statistics in (
        lambda: auc_statistics(preds, other, None),
        lambda: normalized_entropy_statistics(preds, other, None, eta=1e-12),
    ):
        with pytest.raises(ValueError, match="1 targets are neither 0 nor 1"):
            statistics()
