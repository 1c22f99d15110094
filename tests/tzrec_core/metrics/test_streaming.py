import pytest
import torch
from google.protobuf import text_format

from tzrec_core.metrics.build import build_metric, build_train_metric
from tzrec_core.protos.metric_pb2 import MetricConfig, TrainMetricConfig

OF_NUMBERS = [
    "auc {}",
    "accuracy {}",
    "mean_absolute_error {}",
    "mean_squared_error {}",
    "log_loss {}",
    "normalized_entropy {}",
    "calibration {}",
    "calibration_error {}",
]
OF_CLASSES = [
    "multiclass_auc {}",
    "recall_at_k { top_k: 2 }",
    "accuracy { top_k: 3 }",
    "log_loss {}",
    "normalized_entropy {}",
]
CASES = [*((text, 1) for text in OF_NUMBERS), *((text, 4) for text in OF_CLASSES)]


def rows(num_class, device):
    preds = torch.rand(9, num_class, device=device)
    target = torch.randint(0, 2, (9,), device=device)
    return (preds.squeeze(1) if num_class == 1 else preds), target


@pytest.mark.parametrize(("text", "num_class"), CASES)
def test_an_update_never_looks_at_values(text, num_class):
    # Tensors on this device have none, so whatever would wait for a GPU fails.
    metric = build_metric(text_format.Parse(text, MetricConfig()), num_class=num_class)
    on_meta = metric.formula.add_up(*rows(num_class, "meta"))
    on_cpu = metric.formula.add_up(*rows(num_class, "cpu"))
    assert on_meta.shape == on_cpu.shape == (metric.formula.size,)
    assert on_meta.dtype == on_cpu.dtype == torch.float64


@pytest.mark.parametrize("text", ["auc {}", "accuracy {}", "mean_squared_error {}"])
def test_a_step_of_training_never_looks_at_values(text):
    config = text_format.Parse(f"{text} decay_step: 2", TrainMetricConfig())
    metric = build_train_metric(config, num_class=1)
    metric.to(torch.device("meta"))
    for _ in range(5):
        metric.update(*rows(1, "meta"))


@pytest.mark.filterwarnings("ignore:multiclass_auc leaves out 2 of 4 classes")
@pytest.mark.parametrize(("text", "num_class"), CASES)
def test_targets_may_be_of_any_number_type_and_predictions_of_any_float(text, num_class):
    preds, target = rows(num_class, "cpu")
    expected = None
    for preds_type in (torch.float32, torch.float64, torch.bfloat16):
        for target_type in (torch.int64, torch.int32, torch.float32, torch.float64, torch.bool):
            metric = build_metric(text_format.Parse(text, MetricConfig()), num_class=num_class)
            metric.update(preds.bfloat16().to(preds_type), target.to(target_type))
            value = metric.compute()
            expected = value if expected is None else expected
            assert value.dtype == torch.float64
            torch.testing.assert_close(value, expected)
