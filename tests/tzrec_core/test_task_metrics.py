import json
import math

import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error, roc_auc_score

from tests.distributed.ranks import run
from tests.tzrec_core.task_rows import (
    BCE,
    CLICK,
    L2,
    SOFTMAX,
    STARS,
    WATCH,
    WEIGHTED,
    build_task,
    config,
    make_batch,
    make_logits,
    make_logits_of_towers,
    rows_of,
    towers,
)
from tzrec_core.config_checks.metric import metric_names
from tzrec_core.config_checks.task import loss_names
from tzrec_core.metrics.xauc import xauc
from tzrec_core.task_metrics import TaskMetrics, TrainMetrics
from tzrec_core.tasks import build_tasks, predictions, row_weights

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
        metrics.update(predictions([task], logits[start:end]), rows_of(batch, start, end))


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
    reported = {"grouped_auc_group_coverage", "grouped_auc_row_coverage"}
    assert set(values) == {*metric_names(model), *loss_names(model), *reported}
    in_a_group_of_both = sum(
        int((batch.group_ids["user"] == user).sum())
        for user in range(6)
        if len(click[batch.group_ids["user"] == user].unique()) == 2
    )
    assert values == {
        "auc": pytest.approx(roc_auc_score(click, probs)),
        "grouped_auc": pytest.approx(sum(by_user) / len(by_user)),
        "grouped_auc_group_coverage": pytest.approx(
            len(by_user) / len(batch.group_ids["user"].unique())
        ),
        "grouped_auc_row_coverage": pytest.approx(in_a_group_of_both / 40),
        "xauc": pytest.approx(xauc(probs, batch.labels["watch_time"]).item()),
        "xauc_click": pytest.approx(xauc(probs, click).item()),
        "accuracy": pytest.approx(((probs > 0.5) == click).double().mean().item()),
        "mean_squared_error": pytest.approx(mean_squared_error(click, probs)),
        "binary_cross_entropy": pytest.approx(
            log_loss(click, probs.double(), sample_weight=weight), rel=1e-5
        ),
    }


@pytest.mark.parametrize(
    "metric",
    ["xauc { sample_ratio: 0.5 }", "xauc { max_pairs: 10 }", "multiclass_auc { thresholds: 0 }"],
)
def test_what_needs_all_rows_in_memory_is_refused_if_they_are_to_be_on_disk(metric):
    model = SOFTMAX + f"num_class: 2 metrics {{ {metric} }}"
    TaskMetrics(config(model))
    settings = config(model)
    settings.eval_config.rows_on_disk = True
    with pytest.raises(
        ValueError, match=r"eval_config\.rows_on_disk .* all rows in memory: " + metric[:4]
    ):
        TaskMetrics(settings)


def test_sampled_pairs_within_groups_go_with_rows_on_disk():
    settings = config(
        BCE + 'metrics { grouped_xauc { grouping_key: "user" max_pairs_per_group: 3 } }'
    )
    settings.eval_config.rows_on_disk = True
    TaskMetrics(settings)


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
    metrics.update(predictions([task], logits), batch)
    expected = roc_auc_score(batch.labels["click"], logits[:, 0])
    assert metrics.compute() == {"auc": pytest.approx(expected, abs=1e-2)}


def trained(settings, *seeds):
    metrics = TrainMetrics(settings)
    task = build_task(settings)
    for seed in seeds:
        logits = make_logits(num_class=task.num_class, seed=seed)
        metrics.update(predictions([task], logits), make_batch(seed=seed))
    return metrics


def test_every_train_metric_is_given_the_output_that_it_judges():
    settings = config(
        SOFTMAX
        + """
        num_class: 2
        train_metrics { auc { thresholds: 10001 } }
        train_metrics { recall_at_k { top_k: 1 } }
        train_metrics { accuracy {} }
        train_metrics { xauc {} }
        train_metrics { mean_squared_error {} }
        """
    )
    logits, target = make_logits(num_class=2, seed=3), make_batch(seed=3).labels["click"]
    probs1 = torch.softmax(logits, dim=1)[:, 1]
    accuracy = pytest.approx((logits.argmax(1) == target).double().mean().item())
    assert trained(settings, 3).compute() == {
        "auc": pytest.approx(roc_auc_score(target, probs1), abs=1e-2),
        "recall_at_1": accuracy,
        "accuracy": accuracy,
        "xauc": pytest.approx(xauc(probs1, target).item()),
        "mean_squared_error": pytest.approx(mean_squared_error(target, probs1)),
    }


def test_train_metrics_go_on_from_their_state_unless_their_config_has_changed():
    text = BCE + "train_metrics { auc {} decay_step: 2 } train_metrics { mean_squared_error {} }"
    settings = config(text)
    state = json.loads(json.dumps(trained(settings, 0, 1, 2).state_dict()))

    same = TrainMetrics(settings)
    assert same.load_state_dict(state, num_steps=3) == []
    assert same.compute() == trained(settings, 0, 1, 2).compute()

    accuracy = "train_metrics { accuracy {} }"
    other = TrainMetrics(config(text.replace("auc {}", "auc { thresholds: 300 }") + accuracy))
    assert other.load_state_dict(state, num_steps=3) == ["auc", "accuracy"]
    values = trained(settings, 0, 1, 2).compute()
    with pytest.warns(UserWarning, match="NaN"):
        assert other.compute()["mean_squared_error"] == values["mean_squared_error"]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("", "losses"),
        (BCE + "num_class: 2", "num_class"),
        (L2 + "metrics { auc {} }", "l2_loss"),
        (L2 + "metrics { accuracy {} }", "l2_loss"),
        (L2 + "metrics { log_loss {} }", "log_loss needs a cross entropy loss"),
        (L2 + "metrics { calibration_error {} }", "calibration_error bins probabilities"),
        (SOFTMAX + "num_class: 3 metrics { auc {} }", "num_class is 3, must be 1 or 2"),
        (BCE + "metrics { grouped_auc {} }", "grouping_key"),
    ],
)
def test_metrics_that_do_not_suit_the_task_are_refused(model, message):
    with pytest.raises(ValueError, match=message):
        TaskMetrics(config(model))


def test_train_metrics_that_do_not_suit_the_task_are_refused():
    with pytest.raises(ValueError, match="l2_loss"):
        TrainMetrics(config(L2 + "train_metrics { auc {} }"))


OF_CLICK = """metrics { auc { thresholds: 0 } } metrics { grouped_auc { grouping_key: "user" } }
    metrics { auc {} label_name: "other" } train_metrics { auc {} }"""
OF_WATCH = "metrics { xauc {} } metrics { mean_squared_error {} } train_metrics { xauc {} }"
OF_STARS = " metrics { accuracy {} } train_metrics { accuracy {} }"


def test_towers_are_judged_as_single_tasks_are():
    batch, logits = make_batch(), make_logits_of_towers()
    batch.labels["other"] = 1 - batch.labels["click"]
    settings = towers(CLICK + OF_CLICK, WATCH + OF_WATCH, STARS + OF_STARS)
    tasks = build_tasks(settings)
    metrics, train_metrics = TaskMetrics(settings), TrainMetrics(settings)
    for judge in (metrics, train_metrics):
        judge.update(predictions(tasks, logits), batch)

    expected, expected_of_training = {}, {}
    single = {
        "a": (BCE + OF_CLICK, 'label_fields: "click" sample_weight_fields: "weight"'),
        "b": (L2 + OF_WATCH, 'label_fields: "watch_time" sample_weight_fields: "space_weight"'),
        "c": (SOFTMAX + "num_class: 3" + OF_STARS, 'label_fields: "stars"'),
    }
    batch.sample_weights["space_weight"] = row_weights(tasks[1], batch)
    for tower, (model, data) in single.items():
        of_tower = config(model, data)
        outputs = predictions([build_task(of_tower)], logits[tower])
        for kind, values in ((TaskMetrics, expected), (TrainMetrics, expected_of_training)):
            judge = kind(of_tower)
            judge.update(outputs, batch)
            for name, value in judge.compute().items():
                base = name.removesuffix("_group_coverage").removesuffix("_row_coverage")
                values[f"{base}_{tower}{name.removeprefix(base)}"] = value
    assert metrics.compute() == expected
    assert train_metrics.compute() == expected_of_training
    assert {"auc_a", "auc_other_a", "xauc_b", "l2_loss_b", "accuracy_c"} <= set(expected)
    model = settings.model_config.simple_multi_task
    names = [name for tower in model.task_towers for name in metric_names(tower)]
    assert set(names) == {name for name in expected if "coverage" not in name and "loss" not in name
        and "entropy" not in name}  # fmt: skip


def test_the_state_of_train_metrics_is_known_by_tower():
    settings = towers(CLICK + "train_metrics { auc {} }", CLICK + "train_metrics { auc {} }")
    metrics = TrainMetrics(settings)
    batch, logits = make_batch(), {"a": make_logits(), "b": make_logits(seed=6)}
    metrics.update(predictions(build_tasks(settings), logits), batch)
    state = json.loads(json.dumps(metrics.state_dict()))

    goes_on = TrainMetrics(settings)

    assert goes_on.load_state_dict(state, num_steps=1) == []
    assert goes_on.compute() == metrics.compute()
    assert metrics.compute()["auc_a"] != metrics.compute()["auc_b"]


def evaluate_own_part(ranks, bounds):
    settings = config(ALL_METRICS, WEIGHTED)
    start, end = bounds[ranks.rank]
    metrics = TaskMetrics(settings)
    outputs = predictions([build_task(settings)], make_logits()[start:end])
    metrics.update(outputs, rows_of(make_batch(), start, end))
    return metrics.compute()


def test_two_uneven_ranks_report_what_one_reports():
    settings = config(ALL_METRICS, WEIGHTED)
    metrics = TaskMetrics(settings)
    metrics.update(predictions([build_task(settings)], make_logits()), make_batch())
    expected = metrics.compute()
    assert not any(math.isnan(value) for value in expected.values())
    for values in run(evaluate_own_part, 2, [(0, 11), (11, 40)]):
        # Sigmoids of the same logits differ in the last bit with their place in a batch.
        assert values == pytest.approx(expected, rel=1e-6)
