"""Models with several tasks, from training to prediction, on one rank and on two."""

import contextlib
import json
import math
from functools import partial

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.nn import functional
from torchrec.distributed.train_pipeline import TrainPipelineSparseDist

from tests.distributed.ranks import run, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.exporting.test_exporter import evaluate, export, predict, predict_scripted
from tests.tzrec_core.small_model import local_weights
from tests.tzrec_core.training.test_trainer import assert_same, results, steps, train, weights
from tzrec_core.assembly import assemble, share_of_rows, unsharded
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import loads
from tzrec_core.data.build import build_dataset
from tzrec_core.data.collate import empty_batch
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.train_pipeline import train_pipeline
from tzrec_core.features.build import build_schema
from tzrec_core.optim.accumulation import accumulated
from tzrec_core.tasks import loss_weights

CTR = """
  task_towers { tower_name: "ctr" label_name: "click" sample_weight_name: "w1"
    mlp { hidden_units: 8 } losses { binary_cross_entropy {} }
    metrics { auc { thresholds: 0 } } metrics { grouped_auc { grouping_key: "user_id" } }
    train_metrics { auc {} decay_step: 10 } }
"""
# The other rows' weight is small but not 0.
WATCH = """
  task_towers { tower_name: "watch" label_name: "log_watch" sample_weight_name: "w2" weight: 0.3
    task_space_indicator_label: "click" in_task_space_weight: 2 out_task_space_weight: 0.25
    losses { l2_loss {} } metrics { xauc {} }
    train_metrics { mean_squared_error {} decay_step: 5 } }
"""
MMOE = f"mmoe {{ num_expert: 2 expert_mlp {{ hidden_units: [16, 8] }} {CTR} {WATCH} }}"


def write(folder, model=MMOE, **arguments):
    """Writes click logs with more columns; returns the text of a config with several tasks."""
    text = clicks.write(folder, **arguments)
    for name in ("train", "eval"):
        table = pq.read_table(folder / f"{name}.parquet")
        rng = np.random.default_rng(1)
        for column in ("w1", "w2"):
            table = table.append_column(column, pa.array(rng.random(len(table)) * 3))
        table = table.append_column("log_watch", pa.array(np.log(table["watch"].to_numpy())))
        pq.write_table(table, folder / f"{name}.parquet", row_group_size=64)
    head = text[: text.index("model_config")].replace(
        'label_fields: "click"',
        'label_fields: ["click", "log_watch"] sample_weight_fields: ["w1", "w2"]',
    )
    return f"""{head} model_config {{
      feature_groups {{
        group_name: "all" feature_names: ["user", "item", "tags", "history", "price"] }}
      {model} }}"""


# One rank sees windows 0 and 1 in its first batch, two ranks see one each; at the end the second
# rank has fewer rows than the first, or none.
@pytest.mark.parametrize("last_rows", [64 + 10, 10])
def test_two_ranks_train_the_model_that_one_rank_trains(tmp_path, last_rows):
    text = write(tmp_path, train_rows=128 * 5 + last_rows)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")

    spawn(train, 1, text, {"model_dir": one, "data_config.batch_size": 128})
    spawn(train, 2, text, {"model_dir": two, "data_config.batch_size": 64})

    assert_same(weights(text, one), weights(text, two), atol=1e-5, rtol=1e-4)
    for name, value in results(one)[-1].items():
        assert results(two)[-1][name] == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("world_size", [1, 2])
def test_accumulated_batches_train_the_dense_parameters_as_one_large_batch(tmp_path, world_size):
    text = write(tmp_path, train_rows=128 * 5 + 40)
    frozen = {"train_config.sparse_optimizer.adagrad_optimizer.lr": 0}
    one, many = tmp_path / "one", tmp_path / "many"

    spawn(train, 1, text, {**frozen, "model_dir": str(one), "data_config.batch_size": 128})
    half = {
        "model_dir": str(many),
        "data_config.batch_size": 64 // world_size,
        "train_config.gradient_accumulation_steps": 2,
    }
    spawn(train, world_size, text, {**frozen, **half})

    assert_same(weights(text, many), weights(text, one), atol=1e-5, rtol=1e-4)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A folder with data, a trained model, its config's text and its checkpoint."""
    folder = tmp_path_factory.mktemp("trained")
    text = write(folder, train_rows=64 * 30, eval_rows=301)
    spawn(train, 1, text, {"train_config.num_epochs": 4})
    return folder, text, checkpoint.latest(folder / "model")


def test_every_task_learns_and_is_judged_by_its_name(trained):
    folder, _, _ = trained
    values = results(folder / "model")[-1]

    assert set(values) == {
        "global_step",
        "auc_ctr",
        "grouped_auc_ctr",
        "grouped_auc_ctr_group_coverage",
        "grouped_auc_ctr_row_coverage",
        "binary_cross_entropy_ctr",
        "xauc_watch",
        "l2_loss_watch",
    }
    assert values["auc_ctr"] > 0.7
    assert values["xauc_watch"] > 0.65
    assert values["binary_cross_entropy_ctr"] < math.log(2)
    state = checkpoint.read_position(checkpoint.latest(folder / "model")).state
    assert set(state["train_metrics"]) == {"auc_ctr", "mean_squared_error_watch"}


def test_evaluation_agrees_with_scikit_learn_on_the_predictions(trained, tmp_path):
    folder, text, path = trained
    rows = str(folder / "eval.parquet")
    spawn(evaluate, 2, text, path, tmp_path / "eval_result.txt")
    spawn(predict, 2, text, path, rows, tmp_path / "scores")

    result = json.loads((tmp_path / "eval_result.txt").read_text())
    scored = pq.read_table(tmp_path / "scores").to_pandas().sort_values("row")
    table = pq.read_table(rows).to_pandas()
    click, probs = table["click"], scored["probs_ctr"].to_numpy().astype(float)
    assert result["auc_ctr"] == pytest.approx(roc_auc_score(click, probs), abs=1e-9)
    assert result["binary_cross_entropy_ctr"] == pytest.approx(
        log_loss(click, probs, sample_weight=table["w1"]), abs=1e-6
    )
    errors = (scored["y_watch"].to_numpy() - table["log_watch"].to_numpy()) ** 2
    weight = table["w2"] * np.where(click > 0, 2, 0.25)
    assert result["l2_loss_watch"] == pytest.approx(np.average(errors, weights=weight), rel=1e-5)


def test_an_exported_model_scores_raw_rows_as_the_checkpoint_does(trained, tmp_path):
    folder, text, path = trained
    rows = str(folder / "eval.parquet")
    spawn(export, 1, text, path, tmp_path / "export")
    spawn(predict, 1, text, path, rows, tmp_path / "checkpoint")
    spawn(predict_scripted, 1, tmp_path / "export", rows, tmp_path / "scores", ["row"], [])

    ours, theirs = pq.read_table(tmp_path / "checkpoint"), pq.read_table(tmp_path / "scores")
    outputs = ["logits_ctr", "logits_watch", "probs_ctr", "y_watch"]
    assert theirs.column_names == ["row", *outputs]
    assert json.loads((tmp_path / "export" / "signature.json").read_text())["outputs"] == outputs
    for name in outputs:
        np.testing.assert_allclose(theirs[name].to_numpy(), ours[name].to_numpy(), atol=1e-6)


# Pareto-efficient weights

PARETO = f"""use_pareto_loss_weight: true simple_multi_task {{
  {CTR.replace("mlp", "pareto_min_loss_weight: 0.4 mlp")} {WATCH} }}"""
SGD = {
    "train_config.sparse_optimizer": "sgd_optimizer { lr: 0.5 }",
    "train_config.dense_optimizer": "sgd_optimizer { lr: 0.1 momentum: 0 }",
}
FROZEN = {
    "train_config.sparse_optimizer": "sgd_optimizer { lr: 0 }",
    "train_config.dense_optimizer": "sgd_optimizer { lr: 0 momentum: 0 }",
}


def all_rows(text):
    config = loads(text, source="test")
    config.data_config.batch_size = 1000
    rows = build_dataset(
        config,
        build_schema(config),
        input_path=config.train_input_path,
        training=True,
        rank=0,
        world_size=1,
    )
    [batch] = rows.batches(0)
    return batch


def losses_by_hand(model, batch):
    logits, weight = model.model(batch), batch.sample_weights
    click, watch = batch.labels["click"], batch.labels["log_watch"]
    space = torch.where(click > 0, 2, 0.25) * weight["w2"]
    of_click = functional.binary_cross_entropy_with_logits(
        logits["ctr"][:, 0], click.float(), weight=weight["w1"], reduction="sum"
    )
    of_watch = ((logits["watch"][:, 0] - watch) ** 2 * space).sum()
    return of_click / weight["w1"].sum(), 0.3 * of_watch / space.sum()


@pytest.mark.parametrize("world_size", [1, 2])
def test_a_step_with_pareto_weights_is_that_of_plain_torch(tmp_path, world_size):
    text = steps(write(tmp_path, PARETO, train_rows=150), 1)
    start, end = tmp_path / "start", tmp_path / "end"
    size = {"data_config.batch_size": 150 // world_size + 64}
    shown = {
        "model_config.simple_multi_task.task_towers[:].train_metrics": None,
        "train_config.log_step_count_steps": 1,
        "train_config.use_tensorboard": True,
    }

    spawn(train, 1, text, {**FROZEN, "model_dir": str(start), "data_config.batch_size": 150})
    spawn(train, world_size, text, {**SGD, "model_dir": str(end), **size, **shown})

    model = unsharded(loads(text, source="test"), checkpoint.latest(start))
    parameters = dict(model.named_parameters())
    dense = [value for name, value in parameters.items() if "embeddings." not in name]
    click, watch = losses_by_hand(model, all_rows(text))
    first, second = (
        torch.cat([gradient.flatten().double() for gradient in gradients])
        for gradients in (
            torch.autograd.grad(loss, dense, retain_graph=True, materialize_grads=True)
            for loss in (click, watch)
        )
    )
    # The shortest point between two gradients, within the bound.
    share = float((second - first) @ second / (second - first).square().sum())
    share = min(max(share, 0.4), 1.0)
    assert share > 0.4
    (share * click + (1 - share) * watch).backward()
    with torch.no_grad():
        for name, value in parameters.items():
            value -= (0.5 if "embeddings." in name else 0.1) * value.grad
    assert_same(weights(text, end), model.state_dict(), atol=1e-6, rtol=1e-4)
    events = EventAccumulator(str(end)).Reload()
    for tower, weight in (("ctr", share), ("watch", 1 - share)):
        [event] = events.Scalars(f"pareto_weight/{tower}")
        assert (event.step, event.value) == (1, pytest.approx(weight, abs=1e-5))
    unweighted = weights(text, start)
    assert not torch.allclose(
        unweighted["model.embeddings.deep.embedding_bags.user_emb.weight"],
        parameters["model.embeddings.deep.embedding_bags.user_emb.weight"].detach(),
    )


def test_pareto_weights_are_learned_with_on_two_ranks_as_on_one(tmp_path):
    text = write(tmp_path, PARETO, train_rows=128 * 5 + 30)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")

    spawn(train, 1, text, {**SGD, "model_dir": one, "data_config.batch_size": 128})
    spawn(train, 2, text, {**SGD, "model_dir": two, "data_config.batch_size": 64})

    assert_same(weights(text, one), weights(text, two), atol=1e-4, rtol=1e-3)


def test_a_grad_scaler_changes_no_pareto_weight(tmp_path):
    text = write(tmp_path, PARETO, train_rows=64 * 6)
    plain, scaled = tmp_path / "plain", tmp_path / "scaled"

    spawn(train, 1, text, {**SGD, "model_dir": str(plain)})
    spawn(train, 1, text, {**SGD, "model_dir": str(scaled), "train_config.grad_scaler": "{}"})

    assert_same(weights(text, scaled), weights(text, plain), atol=1e-6, rtol=1e-5)


def trained_by(ranks, text, overlapping):
    """The parameters after an epoch with TorchRec's pipeline, or with the plain one."""
    config = loads(text, source="test")
    job = assemble(config, ranks)
    rows = share_of_rows(config, job.schema, ranks, training=True)
    batches = agree(
        rows.batches(0),
        ranks,
        weigh=partial(loss_weights, job.tasks),
        drop_remainder=False,
        empty=empty_batch(job.schema),
    )
    batches = job.stepper.expected(accumulated(batches, num_batches=1, limit=None))
    pipeline = train_pipeline(job.model, job.stepper, ranks)
    if overlapping:
        pipeline = TrainPipelineSparseDist(job.model, job.stepper, ranks.device)
    job.model.train()
    losses = []
    with contextlib.suppress(StopIteration):
        while True:
            job.stepper.schedule(step=len(losses), epoch=0)
            losses.append(float(pipeline.progress(batches)[0]["total"]))
    return losses, local_weights(job.model)


def test_the_pipeline_that_traces_the_model_takes_several_tasks_and_their_weights(tmp_path):
    text = write(tmp_path, PARETO, train_rows=64 * 5 + 10)

    plain, overlapping = (run(trained_by, 2, text, flag) for flag in (False, True))

    for (losses, parameters), (expected, expected_parameters) in zip(
        overlapping, plain, strict=True
    ):
        assert len(losses) == 3
        assert losses == pytest.approx(expected, rel=1e-5)
        assert_same(parameters, expected_parameters)


# JRC

JRC = 'num_class: 2 losses { jrc_loss { session_name: "user_id" } } metrics { auc {} }'


def test_a_jrc_loss_falls_though_some_batches_have_one_class_only(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 20, eval_rows=300)
    rows = pq.read_table(tmp_path / "train.parquet")
    click = rows["click"].to_numpy()
    of_one_class = [np.flatnonzero(click == label)[:64] for label in (0, 1)]
    mixed = np.setdiff1d(np.arange(len(rows)), np.concatenate(of_one_class))
    order = np.concatenate([of_one_class[0], mixed[:576], of_one_class[1], mixed[576:]])
    pq.write_table(rows.take(order), tmp_path / "train.parquet", row_group_size=64)
    text = text[: text.index("  losses {")] + JRC + "}"
    every_5_steps = {"train_config.save_checkpoints_steps": 5, "train_config.num_epochs": 2}

    spawn(train, 1, text, every_5_steps)

    values = [line["jrc_loss"] for line in results(tmp_path / "model")]
    assert len(values) == 8
    assert all(math.isfinite(value) for value in values)
    assert values[-1] < values[0]
    assert results(tmp_path / "model")[-1]["auc"] > 0.6
