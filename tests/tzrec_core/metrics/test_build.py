import pytest
import torch
from google.protobuf import text_format
from torchmetrics import Metric

from tzrec_core.batch import NULL_ID
from tzrec_core.metrics.build import build_metric, build_train_metric, grouping_key
from tzrec_core.metrics.decay import DecayedMetric
from tzrec_core.metrics.grouped_auc import grouped_auc_sums
from tzrec_core.metrics.row_store import GroupFormula, RowFormula
from tzrec_core.metrics.xauc import xauc
from tzrec_core.protos.metric_pb2 import MetricConfig, TrainMetricConfig
from tzrec_core.protos.options_pb2 import planned

NEEDS_CLASSES = ("multiclass_auc", "recall_at_k")


def members(message):
    return [field.name for field in message.DESCRIPTOR.oneofs_by_name["metric"].fields]


def parse(text, message=MetricConfig):
    return text_format.Parse(text, message())


def with_defaults(message, name):
    """A config of that metric with nothing set but what must be, and a num_class that suits."""
    config = message()
    getattr(config, name).SetInParent()
    if "grouping_key" in getattr(config, name).DESCRIPTOR.fields_by_name:
        getattr(config, name).grouping_key = "user"
    return config, 9 if name in NEEDS_CLASSES else 1


def rows(num_class):
    preds = torch.rand(60, num_class).softmax(1) if num_class > 1 else torch.rand(60)
    return preds, torch.randint(0, max(2, num_class), (60,))


@pytest.mark.parametrize("name", members(MetricConfig))
def test_every_metric_in_the_schema_can_be_built_and_has_a_value(name):
    config, num_class = with_defaults(MetricConfig, name)
    preds, target = rows(num_class)
    match build_metric(config, num_class=num_class):
        case Metric() as metric:
            metric.update(preds, target)
            assert metric.compute().isfinite()
        case RowFormula(name=given, function=function):
            assert given == name
            assert function(preds, target).isfinite()
        case GroupFormula(name=given, function=function):
            assert given == name
            assert 0 <= function(preds, target, torch.arange(60) % 5).value <= 1


@pytest.mark.parametrize("name", members(TrainMetricConfig))
def test_every_train_metric_in_the_schema_can_be_built_with_the_schemas_defaults(name):
    config, num_class = with_defaults(TrainMetricConfig, name)
    metric = build_train_metric(config, num_class=num_class)
    assert isinstance(metric, DecayedMetric)
    assert metric.decay_rate == pytest.approx(0.9)
    assert metric.decay_step == 100
    metric.update(*rows(num_class))
    assert metric.compute().isfinite()


@pytest.mark.parametrize("message", [MetricConfig, TrainMetricConfig])
def test_no_metric_is_only_planned(message):
    waiting = [message.DESCRIPTOR]
    for descriptor in waiting:
        for field in descriptor.fields:
            assert not field.GetOptions().Extensions[planned], field.full_name
            waiting += [field.message_type] if field.message_type else []


def test_auc_without_thresholds_is_exact():
    preds, target = torch.tensor([0.101, 0.102, 0.103]), torch.tensor([0, 1, 1])
    exact = build_metric(parse("auc { thresholds: 0 }"), num_class=1)
    binned = build_metric(parse("auc { thresholds: 2 }"), num_class=1)
    binned.update(preds, target)
    assert (exact.function(preds, target), binned.compute()) == (1.0, 0.5)


def test_xauc_is_exact_unless_it_is_told_how_many_pairs_to_draw():
    preds, target = torch.rand(200), torch.rand(200)
    exact = xauc(preds, target)
    values = {
        text: build_metric(parse(f"xauc {{ {text} }}"), num_class=1).function(preds, target)
        for text in ("", "max_pairs: 1000000", "sample_ratio: 1", "max_pairs: 9")
    }
    assert values[""] == values["max_pairs: 1000000"] == values["sample_ratio: 1"] == exact
    in_order = values["max_pairs: 9"].item() * 9
    assert in_order == pytest.approx(round(in_order))


def test_max_pairs_takes_the_place_of_sample_ratio():
    preds, target = torch.rand(200), torch.rand(200)
    texts = ("max_pairs: 70", "max_pairs: 70 sample_ratio: 0.5")
    one, both = (build_metric(parse(f"xauc {{ {text} }}"), num_class=1) for text in texts)
    assert one.function(preds, target) == both.function(preds, target)


def test_options_reach_the_formulas():
    preds, target = torch.rand(60), torch.randint(0, 2, (60,))
    keys = torch.arange(60) ** 2 % 7
    keys[::5] = NULL_ID

    def value(text):
        built = build_metric(parse(text), num_class=1)
        if isinstance(built, GroupFormula):
            return built.function(preds, target, keys).value
        if isinstance(built, RowFormula):
            return built.function(preds, target).item()
        for start, end in ((0, 43), (43, 60)):
            built.update(preds[start:end], target[start:end])
        return built.compute().item()

    for weighting in ("groups", "rows", "positives"):
        text = f'grouped_auc {{ grouping_key: "k" weighting: "{weighting}" }}'
        assert value(text) == grouped_auc_sums(preds, target, keys, weighting=weighting).value
    for one, other in (
        ("xauc {}", "xauc { exclude_tied_targets: true }"),
        ("xauc { in_batch: true }", "xauc { in_batch: true exclude_tied_targets: true }"),
        ("xauc { in_batch: true }", "xauc { in_batch: true weight_batches_equally: true }"),
        ("xauc { max_pairs: 30 }", "xauc { max_pairs: 30 seed: 1 }"),
        ("xauc { max_pairs: 30 }", "xauc { max_pairs: 30 exclude_tied_targets: true }"),
        (
            'grouped_xauc { grouping_key: "k" max_pairs_per_group: 3 }',
            'grouped_xauc { grouping_key: "k" max_pairs_per_group: 3 seed: 1 }',
        ),
        (
            'grouped_xauc { grouping_key: "k" }',
            'grouped_xauc { grouping_key: "k" exclude_tied_targets: true }',
        ),
        (
            'ndcg_at_k { grouping_key: "k" top_k: 1 }',
            'ndcg_at_k { grouping_key: "k" top_k: 3 }',
        ),
        ("log_loss {}", "log_loss { eta: 0.3 }"),
        ("normalized_entropy {}", "normalized_entropy { eta: 0.3 }"),
        ("calibration_error {}", "calibration_error { num_bins: 1 }"),
        ("accuracy {}", "accuracy { threshold: 0.2 }"),
    ):
        assert value(one) != value(other), (one, other)


def test_grouping_key_is_that_of_the_metrics_that_group():
    assert grouping_key(parse('grouped_auc { grouping_key: "user" }')) == "user"
    assert grouping_key(parse('grouped_xauc { grouping_key: "user" }')) == "user"
    assert grouping_key(parse('ndcg_at_k { grouping_key: "user" }')) == "user"
    assert grouping_key(parse("auc {}")) is None


@pytest.mark.parametrize(
    ("text", "num_class", "message"),
    [
        ("xauc { sample_ratio: 0 }", 1, r"xauc.sample_ratio is 0; must be in \(0, 1\]"),
        ("xauc { max_pairs: 0 }", 1, "xauc.max_pairs is 0; must be > 0, or left out"),
        ("accuracy { top_k: 2 }", 1, "accuracy.top_k is 2; must be 1 as num_class is 1"),
        ("accuracy { threshold: 0.2 }", 3, "accuracy.threshold is set; must be left out"),
        ("auc { thresholds: 1 }", 1, "auc.thresholds is 1; must be > 1, or 0"),
        ("auc {}", 3, "auc needs one number per row; num_class is 3"),
        ("recall_at_k {}", 1, "recall_at_k needs several classes; num_class is 1, must be > 1"),
        ("recall_at_k {}", 5, "recall_at_k.top_k is 5; must be < 5, which is num_class"),
        ("grouped_auc {}", 1, "grouped_auc.grouping_key is not set; must name"),
        ("", 1, "a metric must say which it is"),
    ],
)
def test_metrics_that_cannot_be_built_are_refused(text, num_class, message):
    with pytest.raises(ValueError, match=message):
        build_metric(parse(text), num_class=num_class)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("auc { thresholds: 0 }", "auc.thresholds is 0; must be > 1"),
        ("auc {} decay_rate: 1", r"decay_rate is 1; must be in \[0, 1\)"),
        ("auc {} decay_step: 0", "decay_step is 0; must be > 0"),
        ("recall_at_k {}", "recall_at_k needs several classes"),
        ("", "a metric must say which it is"),
    ],
)
def test_train_metrics_that_cannot_be_built_are_refused(text, message):
    with pytest.raises(ValueError, match=message):
        build_train_metric(parse(text, TrainMetricConfig), num_class=1)
