import pytest
import torch
from google.protobuf import text_format
from torchmetrics import Metric

from tzrec_core.metrics.build import build_metric, build_train_metric, grouping_key
from tzrec_core.protos.metric_pb2 import MetricConfig, TrainMetricConfig
from tzrec_core.protos.options_pb2 import planned


def supported(message):
    fields = message.DESCRIPTOR.oneofs_by_name["metric"].fields
    return [field.name for field in fields if not field.GetOptions().Extensions[planned]]


def parse(text, message=MetricConfig):
    return text_format.Parse(text, message())


@pytest.mark.parametrize("name", supported(MetricConfig))
def test_every_metric_in_the_schema_can_be_built(name):
    config = MetricConfig()
    getattr(config, name).SetInParent()
    assert isinstance(build_metric(config, num_class=1), Metric)


@pytest.mark.parametrize("name", supported(TrainMetricConfig))
def test_every_train_metric_in_the_schema_can_be_built_with_the_schemas_defaults(name):
    config = TrainMetricConfig()
    getattr(config, name).SetInParent()
    metric = build_train_metric(config)
    assert metric.decay_rate == pytest.approx(0.9)
    assert metric.decay_step == 100


def test_auc_without_thresholds_is_exact():
    preds, target = torch.tensor([0.101, 0.102, 0.103]), torch.tensor([0, 1, 1])
    values = {}
    for thresholds in (0, 2):
        metric = build_metric(parse(f"auc {{ thresholds: {thresholds} }}"), num_class=1)
        metric.update(preds, target)
        values[thresholds] = metric.compute().item()
    assert values == {0: 1.0, 2: 0.5}


def test_grouping_key_is_that_of_the_metrics_that_group():
    assert grouping_key(parse('grouped_auc { grouping_key: "user" }')) == "user"
    assert grouping_key(parse('grouped_xauc { grouping_key: "user" }')) == "user"
    assert grouping_key(parse("auc {}")) is None


@pytest.mark.parametrize(
    ("text", "num_class", "message"),
    [
        ("xauc { sample_ratio: 0.1 }", 1, "xauc.sample_ratio is not supported yet"),
        ("xauc { max_pairs: 10 }", 1, "xauc.max_pairs is not supported yet"),
        ("xauc { in_batch: true }", 1, "xauc.in_batch is not supported yet"),
        ("grouped_xauc { max_pairs_per_group: 9 }", 1, "max_pairs_per_group is not supported yet"),
        ("accuracy { top_k: 2 }", 3, "accuracy.top_k must be 1, others are not supported yet: 2"),
        ("accuracy { threshold: 0.2 }", 3, "threshold needs num_class 1, got 3"),
        ("auc { thresholds: 1 }", 1, "thresholds"),
        ("recall_at_k {}", 1, "recall_at_k"),
        ("", 1, "None"),
    ],
)
def test_metrics_that_cannot_be_built_are_refused(text, num_class, message):
    with pytest.raises(ValueError, match=message):
        build_metric(parse(text), num_class=num_class)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auc { thresholds: 0 }", "thresholds"),
        ("auc {} decay_rate: 1", "decay_rate"),
        ("auc {} decay_step: 0", "decay_step"),
        ("xauc {}", "xauc"),
    ],
)
def test_train_metrics_that_cannot_be_built_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        build_train_metric(parse(text, TrainMetricConfig))


def test_a_metric_that_groups_needs_a_key():
    with pytest.raises(ValueError, match=r"grouped_auc\.grouping_key"):
        grouping_key(parse("grouped_auc {}"))
