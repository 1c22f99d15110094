import math

import pytest
import torch
from torchmetrics.functional.classification import binary_calibration_error

from tests.tzrec_core.metrics.batches import in_batches
from tzrec_core.metrics.calibration import calibration, calibration_error
from tzrec_core.metrics.streaming import StreamingMetric


def rows():
    preds = torch.rand(500, dtype=torch.float64) ** 2
    return preds, (torch.rand(500) < preds * 0.8).long()


def test_calibration_is_predicted_over_true():
    preds, target = rows()
    value = in_batches(calibration(), preds, target)
    assert value == pytest.approx(sum(preds.tolist()) / sum(target.tolist()))


def test_calibration_without_positives_has_no_value():
    with pytest.warns(UserWarning, match="the targets add up to 0"):
        assert math.isnan(in_batches(calibration(), torch.rand(9), torch.zeros(9)))


@pytest.mark.parametrize("num_bins", [1, 2, 15, 100])
def test_calibration_error_is_torchmetrics(num_bins):
    preds, target = rows()
    expected = binary_calibration_error(preds, target, n_bins=num_bins, norm="l1")
    value = in_batches(calibration_error(num_bins=num_bins), preds, target)
    assert value == pytest.approx(expected.item(), rel=1e-5)


def test_probability_1_is_in_the_last_bin():
    preds, target = torch.tensor([1.0, 0.95]), torch.tensor([0, 1])
    value = in_batches(calibration_error(num_bins=10), preds, target)
    assert value == pytest.approx(abs(0.95 + 1 - 1) / 2)


def test_bad_rows_are_counted_and_refused():
    for formula in (calibration(), calibration_error(num_bins=3)):
        metric = StreamingMetric(formula)
        metric.update(torch.tensor([0.5, float("nan"), 0.1]), torch.tensor([0, 1, 1]))
        with pytest.raises(ValueError, match="1 predictions or targets are NaN"):
            metric.compute()
    metric.reset()
    metric.update(torch.rand(3), torch.tensor([0, 3, 0.4]))
    with pytest.raises(ValueError, match="2 targets are neither 0 nor 1"):
        metric.compute()


def test_without_rows_there_is_no_calibration_error():
    formula = calibration_error(num_bins=3)
    with pytest.warns(UserWarning, match="there are no rows"):
        assert math.isnan(in_batches(formula, torch.rand(0), torch.zeros(0)))
