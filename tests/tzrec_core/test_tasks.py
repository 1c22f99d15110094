import dataclasses
import math

import pytest
import torch
from google.protobuf import text_format
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from tests.distributed.ranks import run
from tzrec_core.batch import Batch
from tzrec_core.config_check_task import loss_names, metric_names
from tzrec_core.metrics.xauc import xauc
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.tasks import (
    TaskMetrics,
    TrainMetrics,
    build_task,
    checked,
    predictions,
    task_losses,
)

BCE = "losses { binary_cross_entropy {} }"
L2 = "losses { l2_loss {} }"
SOFTMAX = "losses { softmax_cross_entropy {} }"


def config(model, data='label_fields: ["click", "watch_time"]'):
    return text_format.Parse(
        f"data_config {{ {data} }} model_config {{ {model} }}", EasyRecConfig()
    )


WEIGHTED = 'label_fields: "click" sample_weight_fields: "weight"'


def make_batch(size=40, seed=0, **labels):
    generator = torch.Generator().manual_seed(seed)
    defaults = {
        "click": torch.randint(0, 2, (size,), generator=generator),
        "watch_time": torch.rand(size, generator=generator) * 60,
    }
    return Batch(
        dense=torch.zeros(size, 0),
        sparse=None,
        weighted=None,
        labels=defaults | labels,
        sample_weights={"weight": torch.rand(size, generator=generator) * 3},
        group_ids={"user": torch.randint(0, 6, (size,), generator=generator)},
        position={},
    )


def rows_of(batch, start, end):
    """The batch's rows from start to end."""
    parts = {
        name: {key: column[start:end] for key, column in getattr(batch, name).items()}
        for name in ("labels", "sample_weights", "group_ids")
    }
    return dataclasses.replace(batch, dense=batch.dense[start:end], **parts)


def make_logits(size=40, num_class=1, seed=5):
    return torch.randn(size, num_class, generator=torch.Generator().manual_seed(seed))


def test_task_is_the_first_label_the_sample_weight_and_the_losses():
    task = build_task(config(BCE + L2, WEIGHTED))
    assert (task.label, task.sample_weight, task.num_class) == ("click", "weight", 1)
    assert [loss.name for loss in task.losses] == ["binary_cross_entropy", "l2_loss"]


def test_predictions_of_each_kind_of_task():
    logits = make_logits(3).bfloat16()
    assert_outputs(BCE, logits, probs=torch.sigmoid(logits.float()[:, 0]))
    assert_outputs(L2, logits, y=logits.float()[:, 0])
    two, three = make_logits(3, 2), make_logits(3, 3)
    softmax = two.exp() / two.exp().sum(1, keepdim=True)
    assert_outputs(SOFTMAX + "num_class: 2", two, probs=softmax, probs1=softmax[:, 1])
    softmax = three.exp() / three.exp().sum(1, keepdim=True)
    assert_outputs(SOFTMAX + "num_class: 3", three, probs=softmax)


def assert_outputs(model, logits, **expected):
    expected["logits"] = logits.float()
    torch.testing.assert_close(predictions(build_task(config(model)), logits), expected)


def test_losses_are_weighted_means_unless_a_normalizer_is_given():
    task = build_task(config(BCE + L2, WEIGHTED))
    batch, logits = make_batch(), make_logits()
    labels, weight = batch.labels["click"], batch.sample_weights["weight"]
    probs = torch.sigmoid(logits[:, 0].double())
    mean = log_loss(labels, probs, sample_weight=weight)
    squared = mean_squared_error(labels, logits[:, 0], sample_weight=weight)

    losses = task_losses(task, logits, batch)
    assert losses["binary_cross_entropy"].item() == pytest.approx(mean, rel=1e-5)
    assert losses["l2_loss"].item() == pytest.approx(squared, rel=1e-5)

    batch.normalizer = torch.tensor(7.0)
    losses = task_losses(task, logits, batch)
    expected = mean * weight.sum().item() / 7
    assert losses["binary_cross_entropy"].item() == pytest.approx(expected, rel=1e-5)


def test_gradients_averaged_over_uneven_ranks_are_those_of_all_rows():
    task = build_task(config(BCE, WEIGHTED))
    batch, logits = make_batch(), make_logits().requires_grad_()
    task_losses(task, logits, batch)["binary_cross_entropy"].backward()
    expected, logits.grad = logits.grad, None
    normalizer = batch.sample_weights["weight"].sum() / 2
    for start, end in ((0, 25), (25, 40)):
        part = dataclasses.replace(rows_of(batch, start, end), normalizer=normalizer)
        (task_losses(task, logits[start:end], part)["binary_cross_entropy"] / 2).backward()
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("normalizer", [None, torch.tensor(4.0)])
@pytest.mark.parametrize("model", [BCE, L2, SOFTMAX + "num_class: 3"])
def test_an_empty_batch_has_loss_zero_and_a_gradient(model, normalizer):
    task = build_task(config(model))
    batch = dataclasses.replace(make_batch(0), normalizer=normalizer)
    weight = torch.ones(1, task.num_class, requires_grad=True)
    [loss] = task_losses(task, torch.zeros(0, 1) @ weight, batch).values()
    loss.backward()
    assert loss.item() == 0
    assert (weight.grad == 0).all()


def test_rows_without_weight_have_loss_zero():
    batch = make_batch()
    batch.sample_weights["weight"].zero_()
    [loss] = task_losses(build_task(config(BCE, WEIGHTED)), make_logits(), batch).values()
    assert loss.item() == 0


@pytest.mark.parametrize(
    ("model", "labels", "message"),
    [
        (BCE, torch.tensor([0, 2, 1]), "'click' must be 0 or 1, got 2"),
        (BCE, torch.tensor([0, 1, 0.5]), "'click' must be 0 or 1, got 0.5"),
        (BCE, torch.tensor([0.0, float("nan"), 1]), "got nan"),
        (BCE, torch.tensor([0, -1, 1]), "got -1"),
        (SOFTMAX + "num_class: 3", torch.tensor([0, 3, 1]), "an integer from 0 to 2, got 3"),
        (L2, torch.tensor([0.0, float("inf"), 1]), "must be finite, got inf"),
    ],
)
def test_labels_that_a_loss_cannot_take_are_refused_before_they_train(model, labels, message):
    batches = checked(iter([make_batch(3, click=labels)]), build_task(config(model)))
    with pytest.raises(ValueError, match=message):
        next(batches)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_usable_labels_pass(dtype):
    batch = make_batch(4, click=torch.tensor([0, 1, 1, 0]).to(dtype))
    assert list(checked(iter([batch]), build_task(config(BCE)))) == [batch]


ALL_METRICS = (
    BCE
    + """
    metrics { auc { thresholds: 0 } }
    metrics { grouped_auc { grouping_key: "user" } }
    metrics { xauc {} label_name: "watch_time" }
    metrics { xauc {} label_name: "click" }
    metrics { accuracy {} }
    metrics { mean_squared_error {} }
"""
)


def update_in_batches(metrics, task, batch, logits):
    for start, end in ((0, 15), (15, 15), (15, 40)):
        metrics.update(predictions(task, logits[start:end]), rows_of(batch, start, end))


def test_task_metrics_judge_probabilities_against_their_label_and_average_the_losses():
    settings = config(ALL_METRICS, WEIGHTED)
    task, batch, logits = build_task(settings), make_batch(), make_logits()
    metrics = TaskMetrics(settings)
    update_in_batches(metrics, task, batch, logits)
    values = metrics.compute()

    click, probs = batch.labels["click"], torch.sigmoid(logits[:, 0])
    by_user = [
        roc_auc_score(click[rows], probs[rows])
        for rows in (batch.group_ids["user"] == user for user in range(6))
        if len(click[rows].unique()) == 2
    ]
    weight = batch.sample_weights["weight"]
    model = settings.model_config
    assert list(values) == metric_names(model) + loss_names(model)
    assert values == {
        "auc": pytest.approx(roc_auc_score(click, probs)),
        "grouped_auc": pytest.approx(sum(by_user) / len(by_user)),
        "xauc": pytest.approx(xauc(probs, batch.labels["watch_time"]).item()),
        "xauc_click": pytest.approx(xauc(probs, click).item()),
        "accuracy": pytest.approx(((probs > 0.5) == click).double().mean().item()),
        "mean_squared_error": pytest.approx(mean_squared_error(click, probs)),
        "binary_cross_entropy": pytest.approx(
            log_loss(click, probs.double(), sample_weight=weight), rel=1e-5
        ),
    }


def test_metrics_forget_on_reset():
    settings = config(ALL_METRICS)
    task, metrics = build_task(settings), TaskMetrics(settings)
    update_in_batches(metrics, task, make_batch(seed=1), make_logits(seed=1))
    metrics.reset()
    update_in_batches(metrics, task, make_batch(), make_logits())
    fresh = TaskMetrics(settings)
    update_in_batches(fresh, task, make_batch(), make_logits())
    assert metrics.compute() == fresh.compute()


def test_metrics_of_a_regression_judge_the_predicted_value():
    settings = config(
        L2 + "metrics { mean_squared_error {} } metrics { xauc {} }", 'label_fields: "watch_time"'
    )
    task, batch, logits = build_task(settings), make_batch(), make_logits()
    metrics = TaskMetrics(settings)
    update_in_batches(metrics, task, batch, logits)
    error = mean_squared_error(batch.labels["watch_time"], logits[:, 0])
    assert metrics.compute() == {
        "mean_squared_error": pytest.approx(error, rel=1e-5),
        "xauc": pytest.approx(xauc(logits[:, 0], batch.labels["watch_time"]).item()),
        "l2_loss": pytest.approx(error, rel=1e-5),
    }


def test_two_classes_are_judged_by_the_probability_of_class_1():
    settings = config(SOFTMAX + "num_class: 2 metrics { auc { thresholds: 0 } }")
    task, batch, logits = build_task(settings), make_batch(), make_logits(num_class=2)
    metrics = TaskMetrics(settings)
    update_in_batches(metrics, task, batch, logits)
    expected = roc_auc_score(batch.labels["click"], logits[:, 1] - logits[:, 0])
    assert metrics.compute()["auc"] == pytest.approx(expected)


def test_train_metrics_start_with_the_rows_so_far():
    settings = config(BCE + "train_metrics { auc { thresholds: 10001 } }")
    task, batch, logits = build_task(settings), make_batch(), make_logits()
    metrics = TrainMetrics(settings)
    metrics.update(predictions(task, logits), batch)
    expected = roc_auc_score(batch.labels["click"], logits[:, 0])
    assert metrics.compute() == {"auc": pytest.approx(expected, abs=1e-2)}


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "losses"),
        (BCE + "num_class: 2", "num_class"),
        (L2 + "metrics { auc {} }", "l2_loss"),
        (L2 + "metrics { accuracy {} }", "l2_loss"),
        (SOFTMAX + "num_class: 3 metrics { auc {} }", "num_class 1 or 2, got 3"),
        (BCE + "metrics { grouped_auc {} }", "grouping_key"),
    ],
)
def test_metrics_that_do_not_suit_the_task_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        TaskMetrics(config(model))


def test_train_metrics_that_do_not_suit_the_task_are_refused():
    with pytest.raises(ValueError, match="l2_loss"):
        TrainMetrics(config(L2 + "train_metrics { auc {} }"))


def test_a_task_needs_a_label():
    with pytest.raises(ValueError, match="label_fields"):
        build_task(config(BCE, ""))


def evaluate_own_part(ranks, bounds):
    settings = config(ALL_METRICS, WEIGHTED)
    start, end = bounds[ranks.rank]
    metrics = TaskMetrics(settings)
    outputs = predictions(build_task(settings), make_logits()[start:end])
    metrics.update(outputs, rows_of(make_batch(), start, end))
    return metrics.compute()


def test_two_uneven_ranks_report_what_one_reports():
    settings = config(ALL_METRICS, WEIGHTED)
    metrics = TaskMetrics(settings)
    metrics.update(predictions(build_task(settings), make_logits()), make_batch())
    expected = metrics.compute()
    assert not any(math.isnan(value) for value in expected.values())
    for values in run(evaluate_own_part, 2, [(0, 11), (11, 40)]):
        # Sigmoids of the same logits differ in the last bit with their place in a batch.
        assert values == pytest.approx(expected, rel=1e-6)
