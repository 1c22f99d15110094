import pytest
import torch
from sklearn.metrics import accuracy_score, mean_absolute_error, mean_squared_error

from tzrec_core.metrics.accuracy import BinaryAccuracy, MulticlassAccuracy
from tzrec_core.metrics.error import MeanError, absolute_error, squared_error
from tzrec_core.metrics.mean import WeightedMean


def update_in_parts(metric, *columns):
    for start, end in ((0, 7), (7, 7), (7, 50)):  # the second part has no rows
        metric.update(*(column[start:end] for column in columns))
    return metric.compute().item()


@pytest.mark.parametrize(
    ("error", "reference"),
    [(absolute_error, mean_absolute_error), (squared_error, mean_squared_error)],
)
@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_mean_errors_are_sklearns(error, reference, dtype):
    preds, target = torch.randn(50), (torch.randn(50) * 3).to(dtype)
    value = update_in_parts(MeanError(error, name="e"), preds, target)
    assert value == pytest.approx(reference(target.double(), preds.double()), rel=1e-9)


@pytest.mark.parametrize("threshold", [0.5, 0.3])
def test_binary_accuracy_is_sklearns_above_the_threshold(threshold):
    preds, target = torch.rand(50), torch.randint(0, 2, (50,))
    preds[0] = threshold  # not above it
    value = update_in_parts(BinaryAccuracy(threshold=threshold), preds, target)
    assert value == pytest.approx(accuracy_score(target, preds > threshold))


def test_multiclass_accuracy_is_sklearns_of_the_likeliest_class():
    preds, target = torch.rand(50, 4).softmax(1), torch.randint(0, 4, (50,))
    value = update_in_parts(MulticlassAccuracy(), preds, target)
    assert value == pytest.approx(accuracy_score(target, preds.argmax(1)))


def test_weighted_mean_divides_by_the_weights():
    values, weight = torch.rand(50), torch.rand(50)
    expected = sum(v * w for v, w in zip(values.tolist(), weight.tolist(), strict=True))
    mean = update_in_parts(WeightedMean(), values, weight)
    assert mean == pytest.approx(expected / sum(weight.tolist()), rel=1e-6)


@pytest.mark.parametrize(
    "metric",
    [
        MeanError(absolute_error, name="mean_absolute_error"),
        BinaryAccuracy(threshold=0.5),
        MulticlassAccuracy(),
    ],
)
def test_nan_predictions_are_counted_and_refused(metric):
    preds = torch.rand(5, 3) if isinstance(metric, MulticlassAccuracy) else torch.rand(5)
    preds[1] = preds[4] = float("nan")
    metric.update(preds, torch.tensor([0, 1, 0, 1, 0]))
    with pytest.raises(ValueError, match="2 predictions"):
        metric.compute()
