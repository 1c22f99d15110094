import pytest
import torch
from sklearn.metrics import log_loss, mean_squared_error

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
from tzrec_core.losses.jrc import jrc_loss
from tzrec_core.tasks import (
    TaskSpace,
    build_tasks,
    checked,
    loss_weights,
    predictions,
    row_weights,
    task_losses,
)


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
    torch.testing.assert_close(predictions([build_task(config(model))], logits), expected)


def test_losses_are_weighted_means_unless_a_normalizer_is_given():
    task = build_task(config(BCE + L2, WEIGHTED))
    batch, logits = make_batch(), make_logits()
    labels, weight = batch.labels["click"], batch.sample_weights["weight"]
    probs = torch.sigmoid(logits[:, 0].double())
    mean = log_loss(labels, probs, sample_weight=weight)
    squared = mean_squared_error(labels, logits[:, 0], sample_weight=weight)

    losses = task_losses(task, logits, batch, normalizer=None)
    assert losses["binary_cross_entropy"].item() == pytest.approx(mean, rel=1e-5)
    assert losses["l2_loss"].item() == pytest.approx(squared, rel=1e-5)

    losses = task_losses(task, logits, batch, normalizer=torch.tensor(7.0))
    expected = mean * weight.sum().item() / 7
    assert losses["binary_cross_entropy"].item() == pytest.approx(expected, rel=1e-5)


def test_gradients_averaged_over_uneven_ranks_are_those_of_all_rows():
    task = build_task(config(BCE, WEIGHTED))
    batch, logits = make_batch(), make_logits().requires_grad_()
    task_losses(task, logits, batch, normalizer=None)["binary_cross_entropy"].backward()
    expected, logits.grad = logits.grad, None
    normalizer = batch.sample_weights["weight"].sum() / 2
    for start, end in ((0, 25), (25, 40)):
        losses = task_losses(
            task, logits[start:end], rows_of(batch, start, end), normalizer=normalizer
        )
        (losses["binary_cross_entropy"] / 2).backward()
    torch.testing.assert_close(logits.grad, expected)


@pytest.mark.parametrize("normalizer", [None, torch.tensor(4.0)])
@pytest.mark.parametrize(
    "model",
    [
        BCE,
        L2,
        SOFTMAX + "num_class: 3",
        'num_class: 2 losses { jrc_loss { session_name: "user" } }',
    ],
)
def test_an_empty_batch_has_loss_zero_and_a_gradient(model, normalizer):
    task = build_task(config(model))
    weight = torch.ones(1, task.num_class, requires_grad=True)
    logits = torch.zeros(0, 1) @ weight
    [loss] = task_losses(task, logits, make_batch(0), normalizer=normalizer).values()
    loss.backward()
    assert loss.item() == 0
    assert (weight.grad == 0).all()


def test_rows_without_weight_have_loss_zero():
    batch = make_batch()
    batch.sample_weights["weight"].zero_()
    task = build_task(config(BCE, WEIGHTED))
    [loss] = task_losses(task, make_logits(), batch, normalizer=None).values()
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
    batches = checked(iter([make_batch(3, click=labels)]), build_tasks(config(model)))
    with pytest.raises(ValueError, match=message):
        next(batches)


@pytest.mark.parametrize("dtype", [torch.int64, torch.float32])
def test_usable_labels_pass(dtype):
    batch = make_batch(4, click=torch.tensor([0, 1, 1, 0]).to(dtype))
    assert list(checked(iter([batch]), build_tasks(config(BCE)))) == [batch]


def test_a_task_needs_a_label():
    with pytest.raises(ValueError, match="label_fields"):
        build_task(config(BCE, ""))


def test_each_tower_is_a_task_with_its_own_label_weights_and_bound():
    click, watch = build_tasks(towers(CLICK + "pareto_min_loss_weight: 0.25", WATCH))

    assert (click.label, click.sample_weight, click.space) == ("click", "weight", None)
    assert (click.tower, click.weight, click.least_share) == ("a", 1.0, 0.25)
    assert watch.label == "watch_time"
    assert watch.space == TaskSpace(label="click", weight_in=2.0, weight_out=0.5)
    assert (watch.tower, watch.weight, watch.least_share) == ("b", pytest.approx(0.01), 0.0)


def test_predictions_of_towers_are_those_of_single_tasks_with_the_towers_name():
    logits = make_logits_of_towers()
    expected = {
        f"{name}_{tower}": values
        for tower, model in {"a": BCE, "b": L2, "c": SOFTMAX + "num_class: 3"}.items()
        for name, values in predictions([build_task(config(model))], logits[tower]).items()
    }

    found = predictions(build_tasks(towers(CLICK, WATCH, STARS)), logits)

    torch.testing.assert_close(found, expected)
    assert set(found) == {"logits_a", "probs_a", "logits_b", "y_b", "logits_c", "probs_c"}


def test_rows_in_and_out_of_the_task_space_weigh_differently():
    batch = make_batch()
    tasks = build_tasks(towers(CLICK, WATCH, STARS))
    expected = [
        float(batch.sample_weights["other_weight"][row]) * (2.0 if clicked else 0.5)
        for row, clicked in enumerate(batch.labels["click"])
    ]

    torch.testing.assert_close(row_weights(tasks[1], batch), torch.tensor(expected))
    torch.testing.assert_close(
        loss_weights(tasks, batch),
        torch.tensor(
            [float(batch.sample_weights["weight"].sum()), sum(expected), 40.0], dtype=torch.float64
        ),
        rtol=1e-6,
        atol=0,
    )


def test_a_task_without_a_row_in_its_space_has_loss_zero():
    clicks_only = WATCH.replace("out_task_space_weight: 0.5", "out_task_space_weight: 0")
    _, task = build_tasks(towers(CLICK, clicks_only))
    nobody = make_batch(click=torch.zeros(40, dtype=torch.int64))

    [loss] = task_losses(task, make_logits(), nobody, normalizer=None).values()

    assert loss.item() == 0


JRC = 'num_class: 2 losses { jrc_loss { session_name: "user" alpha: 0.3 } }'


def test_the_sessions_of_a_jrc_loss_come_with_the_batch():
    task, batch, logits = build_task(config(JRC, WEIGHTED)), make_batch(), make_logits(num_class=2)

    losses = task_losses(task, logits, batch, normalizer=None)

    weight = batch.sample_weights["weight"]
    rows = jrc_loss(
        logits, batch.labels["click"], batch.group_ids["user"], alpha=0.3, same_label_competes=False
    )
    assert losses["jrc_loss"].item() == pytest.approx(float((rows * weight).sum() / weight.sum()))


def test_a_label_that_a_tower_cannot_take_is_refused_with_the_tower():
    batch = make_batch(stars=torch.full((40,), 3))
    with pytest.raises(ValueError, match="'stars' must be an integer from 0 to 2 for tower 'c'"):
        next(checked(iter([batch]), build_tasks(towers(CLICK, WATCH, STARS))))


def test_a_tower_needs_a_label():
    with pytest.raises(ValueError, match=r"task_towers\[0\].label_name"):
        build_tasks(towers(BCE))
