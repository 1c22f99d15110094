import json

import numpy as np
import pytest
from sklearn.metrics import auc, roc_auc_score, roc_curve

from components.select_best.roc import roc_points


def columns(points):
    keys = ("confidenceThreshold", "falsePositiveRate", "recall")
    return [np.array([point[key] for point in points]) for key in keys]


def clicks(num_rows, num_scores, seed=0):
    """Returns scores on a grid, so that many are tied, and labels that follow them."""
    random = np.random.default_rng(seed)
    scores = random.integers(num_scores, size=num_rows) / num_scores
    return scores.astype(np.float32), (random.random(num_rows) < scores).astype(np.int64)


def test_a_short_curve_is_scikit_learns_with_a_finite_first_threshold():
    scores, labels = clicks(1000, 50)
    threshold, false_rate, recall = columns(roc_points(scores, labels, max_points=200))
    expected = roc_curve(labels, scores, drop_intermediate=False)

    np.testing.assert_allclose(false_rate, expected[0])
    np.testing.assert_allclose(recall, expected[1])
    np.testing.assert_allclose(threshold[1:], expected[2][1:])
    assert threshold[0] > scores.max()
    assert np.isfinite(threshold).all()


@pytest.mark.parametrize("max_points", [2, 10, 200])
def test_a_long_curve_keeps_its_ends_and_its_area(max_points):
    scores, labels = clicks(60_000, 40_000)
    threshold, false_rate, recall = columns(roc_points(scores, labels, max_points=max_points))

    assert 2 <= len(recall) <= max_points
    assert (false_rate[0], recall[0]) == (0, 0)
    assert (false_rate[-1], recall[-1]) == (1, 1)
    assert (np.diff(threshold) < 0).all()
    assert (np.diff(recall) >= 0).all()
    if max_points == 200:
        assert auc(false_rate, recall) == pytest.approx(roc_auc_score(labels, scores), abs=1e-4)


def test_a_curve_is_small_json():
    scores, labels = clicks(60_000, 40_000)

    assert len(json.dumps(roc_points(scores, labels, max_points=200), allow_nan=False)) < 30_000


@pytest.mark.parametrize("label", [0, 1])
def test_one_class_has_no_curve(label):
    assert roc_points(np.array([0.1, 0.2]), np.array([label, label]), max_points=200) == []


def test_one_score_for_all_is_the_diagonal():
    points = roc_points(np.full(10, 0.5), np.arange(10) % 2, max_points=200)

    assert [(p["falsePositiveRate"], p["recall"]) for p in points] == [(0, 0), (1, 1)]
