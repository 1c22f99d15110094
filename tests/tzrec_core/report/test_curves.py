import numpy as np
import pytest
from sklearn import metrics

from tzrec_core.report.curves import (
    Curve,
    average_precision,
    count_above,
    precision_recall_curve,
    roc_curve,
    thin,
)


def clicks(num_rows, num_scores, seed=0):
    """Scores on a grid, so that many are tied, and labels that follow them."""
    random = np.random.default_rng(seed)
    scores = random.integers(num_scores, size=num_rows) / num_scores
    return scores.astype(np.float32), (random.random(num_rows) < scores).astype(np.int64)


def test_a_short_roc_curve_is_scikit_learns_with_a_finite_first_threshold():
    scores, labels = clicks(1000, 50)
    false_rate, recall, threshold = roc_curve(count_above(scores, labels), max_points=200)
    expected = metrics.roc_curve(labels, scores, drop_intermediate=False)

    np.testing.assert_allclose(false_rate, expected[0])
    np.testing.assert_allclose(recall, expected[1])
    np.testing.assert_allclose(threshold[1:], expected[2][1:])
    assert np.isfinite(threshold).all()
    assert threshold[0] > scores.max()


@pytest.mark.parametrize("max_points", [2, 10, 200])
def test_a_long_roc_curve_keeps_its_ends_and_its_area(max_points):
    scores, labels = clicks(60_000, 40_000)
    false_rate, recall, threshold = roc_curve(count_above(scores, labels), max_points=max_points)

    assert 2 <= len(recall) <= max_points
    assert (false_rate[0], recall[0]) == (0, 0)
    assert (false_rate[-1], recall[-1]) == (1, 1)
    assert (np.diff(threshold) < 0).all()
    if max_points == 200:
        area = metrics.roc_auc_score(labels, scores)
        assert metrics.auc(false_rate, recall) == pytest.approx(area, abs=1e-4)


def test_precision_by_recall_is_scikit_learns_best_for_each_recall():
    scores, labels = clicks(1000, 50)
    recall, precision = precision_recall_curve(count_above(scores, labels))
    expected_precision, expected_recall, _ = metrics.precision_recall_curve(labels, scores)

    # Of the thresholds of one recall the highest comes last.
    last = {r: p for p, r in zip(expected_precision[:-1], expected_recall[:-1], strict=True)}
    last.pop(0.0, None)
    np.testing.assert_allclose(recall, sorted(last))
    np.testing.assert_allclose(precision, [last[r] for r in sorted(last)])


def test_a_long_precision_curve_is_a_part_of_the_whole_with_its_end():
    scores, labels = clicks(60_000, 40_000)
    counts = count_above(scores, labels)
    whole = precision_recall_curve(counts, max_points=10**9)
    short = precision_recall_curve(counts)

    assert len(short.x) <= 200
    assert set(zip(*short, strict=True)) <= set(zip(*whole, strict=True))
    assert short.x[-1] == 1


@pytest.mark.parametrize("num_scores", [1, 2, 1000])
def test_average_precision_is_scikit_learns(num_scores):
    scores, labels = clicks(2000, num_scores)
    labels[:3] = [0, 1, 1]

    expected = metrics.average_precision_score(labels, scores)
    assert average_precision(count_above(scores, labels)) == pytest.approx(expected)


@pytest.mark.parametrize("labels", [[], [0, 0], [1, 1]])
def test_one_class_or_no_row_has_no_curve(labels):
    counts = count_above(np.linspace(0, 1, len(labels)), np.array(labels))
    assert not counts.has_both_classes


def test_average_precision_without_positives_is_nan():
    assert np.isnan(average_precision(count_above(np.array([0.1, 0.2]), np.zeros(2))))


def test_one_score_for_all_is_the_diagonal():
    counts = count_above(np.full(10, 0.5), np.arange(10) % 2)
    false_rate, recall, _ = roc_curve(counts)

    assert list(zip(false_rate, recall, strict=True)) == [(0, 0), (1, 1)]
    assert precision_recall_curve(counts).y.tolist() == [0.5]


def test_thinning_keeps_points_and_ends():
    curve = Curve(np.arange(1000.0), np.arange(1000.0) ** 2)
    short = thin(curve)

    assert len(short.x) <= 200
    assert (short.y == short.x**2).all()
    assert (short.x[0], short.x[-1]) == (0, 999)
