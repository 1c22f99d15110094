from functools import partial
from itertools import permutations

import pytest
import torch
from sklearn.metrics import (
    accuracy_score,
    mean_absolute_error,
    mean_squared_error,
    top_k_accuracy_score,
)

from tests.tzrec_core.metrics.batches import in_batches
from tzrec_core.metrics.accuracy import binary_hits, top_k_hits
from tzrec_core.metrics.error import absolute_error, squared_error
from tzrec_core.metrics.mean import WeightedMean
from tzrec_core.metrics.streaming import StreamingMetric, mean_over_rows


@pytest.mark.parametrize(
    ("error", "reference"),
    [(absolute_error, mean_absolute_error), (squared_error, mean_squared_error)],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32, torch.bfloat16])
def test_mean_errors_are_sklearns(error, reference, dtype):
    preds, target = torch.randn(50), (torch.randn(50) * 3).to(dtype)
    value = in_batches(mean_over_rows("e", error), preds, target)
    assert value == pytest.approx(reference(target.double(), preds.double()), rel=1e-12)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_binary_accuracy_is_sklearns_above_the_threshold(threshold):
    preds, target = torch.rand(50), torch.randint(0, 2, (50,))
    preds[0] = threshold  # not above it
    formula = mean_over_rows("accuracy", partial(binary_hits, threshold=threshold), num_labels=2)
    value = in_batches(formula, preds, target)
    assert value == pytest.approx(accuracy_score(target, preds > threshold))


@pytest.mark.parametrize("top_k", [1, 2, 3])
def test_top_k_hits_without_ties_are_sklearns(top_k):
    preds, target = torch.rand(50, 4).softmax(1), torch.randint(0, 4, (50,))
    formula = mean_over_rows("recall_at_k", partial(top_k_hits, top_k=top_k), num_labels=4)
    expected = top_k_accuracy_score(target, preds, k=top_k, labels=range(4))
    assert in_batches(formula, preds, target.float()) == pytest.approx(expected)


@pytest.mark.parametrize("top_k", [1, 2, 3, 4])
def test_ties_share_the_places_as_if_every_order_of_the_classes_were_tried(top_k):
    preds, target = torch.randint(0, 3, (30, 4)) / 8, torch.randint(0, 4, (30,))
    orders = list(permutations(range(4)))
    for row, label, value in zip(
        preds.tolist(), target.tolist(), top_k_hits(preds, target, top_k=top_k), strict=True
    ):
        # sorted() keeps the order of what is tied.
        hits = [label in sorted(order, key=lambda c: -row[c])[:top_k] for order in orders]
        assert value.item() == pytest.approx(sum(hits) / len(orders))


def test_weighted_mean_divides_by_the_weights():
    values, weight = torch.rand(50), torch.rand(50)
    expected = sum(v * w for v, w in zip(values.tolist(), weight.tolist(), strict=True))
    mean = WeightedMean()
    for start, end in ((0, 7), (7, 7), (7, 50)):
        mean.update(values[start:end], weight[start:end])
    assert mean.compute().item() == pytest.approx(expected / sum(weight.tolist()), rel=1e-6)


def test_weighted_means_add_up_what_float32_would_lose():
    lost = 2.0**25
    mean = WeightedMean()
    mean.update(torch.tensor([lost, 1.0, -lost]), torch.ones(3))
    mean.update(torch.tensor([0.0, 0.0]), torch.tensor([lost, 1.0]))
    assert mean.compute().item() == pytest.approx(1 / (lost + 4), rel=1e-12)


FORMULAS = [
    mean_over_rows("m", absolute_error),
    mean_over_rows("m", partial(binary_hits, threshold=0.5), num_labels=2),
    mean_over_rows("m", partial(top_k_hits, top_k=1), num_labels=3),
]


@pytest.mark.parametrize("formula", FORMULAS)
def test_nan_predictions_are_counted_and_refused(formula):
    preds = torch.rand(5, 3) if formula is FORMULAS[2] else torch.rand(5)
    preds[1] = preds[4] = float("nan")
    metric = StreamingMetric(formula)
    metric.update(preds, torch.tensor([0, 1, 0, 1, 0]))
    with pytest.raises(ValueError, match="m: 2 predictions or targets are NaN"):
        metric.compute()


@pytest.mark.parametrize(
    ("formula", "preds", "allowed"),
    [
        (FORMULAS[1], torch.rand(5), "neither 0 nor 1"),
        (FORMULAS[2], torch.rand(5, 3), "no integers from 0 to 2"),
    ],
)
def test_targets_that_are_no_class_are_counted_and_refused(formula, preds, allowed):
    metric = StreamingMetric(formula)
    metric.update(preds, torch.tensor([0, 1, float("nan"), -1, 0.5]))
    with pytest.raises(ValueError, match=f"m: 3 targets are {allowed}"):
        metric.compute()


def test_without_rows_there_is_no_mean():
    with pytest.warns(UserWarning, match="m is NaN: there are no rows"):
        assert torch.tensor(in_batches(FORMULAS[0], torch.rand(0), torch.rand(0))).isnan()
