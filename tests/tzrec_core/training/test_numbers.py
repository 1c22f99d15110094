"""What a training shows of itself: losses that are not finite, norms, histograms, a profile."""

import io
import json
from contextlib import redirect_stderr

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.training.test_trainer import assert_same, results, steps, train, weights
from tzrec_core import command_line, train_eval
from tzrec_core.assembly import share_of_rows, unsharded
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import edit, loads
from tzrec_core.distributed.ranks import Ranks
from tzrec_core.features.build import build_schema

REGRESSION = {
    "data_config.label_fields": ["watch"],
    "model_config.losses": "[{ l2_loss {} }]",
    "model_config.metrics": "[{ mean_squared_error {} }]",
    "model_config.train_metrics": None,
}


def poison(path, row):
    """Gives a row a label so large that its loss is infinite."""
    table = pq.read_table(path)
    watch = table["watch"].to_numpy().copy()
    watch[row] = 1e30
    index = table.schema.get_field_index("watch")
    pq.write_table(table.set_column(index, "watch", pa.array(watch)), path, row_group_size=64)


@pytest.mark.parametrize(
    ("world_size", "row", "said"),
    [
        (1, 64 * 4 + 7, "step 5, in epoch 0, of the batch with .*train.parquet rows 256-319; the"),
        # Windows 0 and 1 are the first step of the ranks, 4 and 5 the third. Its loss is looked at
        # before the next checkpoint.
        (2, 64 * 5 + 7, "step 3, in epoch 0 on rank 1, of the batch with .* rows 320-383; the"),
    ],
)
def test_an_infinite_loss_ends_the_training_with_its_rows_and_the_last_good_checkpoint(
    tmp_path, world_size, row, said
):
    text = clicks.write(tmp_path, train_rows=64 * 12)
    poison(tmp_path / "train.parquet", row)
    edits = {**REGRESSION, "train_config.save_checkpoints_steps": 2}

    message = f"FloatingPointError: the loss l2_loss became inf at {said} last good checkpoint is "
    with pytest.raises(RankError, match=message) as error:
        spawn(train, world_size, text, edits)

    last = 4 if world_size == 1 else 2
    assert f"the last good checkpoint is {tmp_path}/model/model.ckpt-{last}\n" in str(error.value)
    assert checkpoint.steps(tmp_path / "model") == list(range(2, last + 1, 2))


def command(path):
    """Trains as the command line does; returns its exit code and what it says of an error."""
    said = io.StringIO()
    with redirect_stderr(said), pytest.raises(SystemExit) as ended:
        command_line.run(train_eval.main, [f"--pipeline_config_path={path}"])
    return ended.value.code, said.getvalue()


def test_the_command_fails_with_what_is_wrong_and_the_rows(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 3)
    poison(tmp_path / "train.parquet", 64 + 7)
    config = loads(text, source="test")
    edit(config, REGRESSION)
    (tmp_path / "my.config").write_text(str(config))

    [(code, said)] = spawn(command, 1, tmp_path / "my.config")

    assert code == 2
    assert said.splitlines()[-1] == (
        "error: the loss l2_loss became inf at step 2, in epoch 0, of the batch with"
        f" {tmp_path}/train.parquet rows 64-127; there is no checkpoint"
    )


# Nothing changes, so that the gradient can be computed anew from the saved model.
FROZEN = {
    "train_config.sparse_optimizer": "adagrad_optimizer { lr: 0 }",
    "train_config.dense_optimizer": "sgd_optimizer { lr: 0 }",
    "train_config.use_tensorboard": True,
    "train_config.log_step_count_steps": 2,
    "train_config.tensorboard_summaries": [
        "parameter", "global_gradient_norm", "gradient_norm", "gradient",
    ],
    "model_config.train_metrics": None,
}  # fmt: skip
CLIPPED = {"train_config.grad_clipping": 'clipping_type: "norm" max_gradient: 0.0001'}
ACCUMULATED = {
    "train_config.gradient_accumulation_steps": 3,
    "train_config.grad_scaler": "init_scale: 1024",
}


def plain_gradients(text, edits, model_dir, *, rows):
    """Returns what plain torch computes of the first rows, by the names of dense parameters."""
    config = loads(text, source="test")
    edit(config, {**edits, "data_config.batch_size": rows})
    alone = Ranks(0, 1, 0, 1, torch.device("cpu"), None)
    data = share_of_rows(config, build_schema(config), alone, training=True)
    model = unsharded(config, checkpoint.latest(model_dir)).train()
    loss, _ = model(next(data.batches(0)))
    loss.backward()
    return {
        name: weight.grad
        for name, weight in model.named_parameters()
        if ".embedding_bags." not in name
    }


def shown(model_dir):
    [file] = model_dir.glob("events.*")
    return EventAccumulator(str(file), size_guidance={"histograms": 0}).Reload()  # 0: all


@pytest.mark.parametrize(
    ("world_size", "batch_size", "edits", "step"),
    [(1, 96, {}, 2), (2, 48, CLIPPED, 2), (1, 32, {**CLIPPED, **ACCUMULATED}, 3)],
)
def test_norms_and_histograms_are_those_of_the_gradient_before_it_is_clipped(
    tmp_path, world_size, batch_size, edits, step
):
    # Both ranks together, or three batches one after the other, have the first 96 rows, twice.
    text = steps(clicks.write(tmp_path, train_rows=96, group_rows=48), 4)
    edits = {**FROZEN, **edits, "data_config.batch_size": batch_size}

    spawn(train, world_size, text, edits)

    gradients = plain_gradients(text, FROZEN, tmp_path / "model", rows=96)
    whole = torch.cat([gradient.flatten() for gradient in gradients.values()])
    events = shown(tmp_path / "model")
    scalars = {
        tag: [(e.step, e.value) for e in events.Scalars(tag)] for tag in events.Tags()["scalars"]
    }
    assert not [tag for tag in scalars if tag.startswith(("loss/", "lr/"))]
    assert scalars["global_gradient_norm"][0] == (
        step,
        pytest.approx(whole.norm().item(), rel=1e-4),
    )
    for name, gradient in gradients.items():
        norm = scalars[f"gradient_norm/{name}"][0]
        assert norm == (step, pytest.approx(gradient.norm().item(), rel=1e-4))
        histogram = events.Histograms(f"gradient/{name}")[0].histogram_value
        assert histogram.num == gradient.numel()
        assert histogram.sum_squares == pytest.approx(norm[1] ** 2, rel=1e-4)
        assert histogram.max == pytest.approx(gradient.max().item(), rel=1e-4)
    # Every parameter, and tables whichever rank has them.
    saved = weights(text, tmp_path / "model")
    names = [tag for tag in events.Tags()["histograms"] if tag.startswith("parameter/")]
    assert sorted(names) == sorted(f"parameter/{name}" for name in saved)
    for name, weight in saved.items():
        event = events.Histograms(f"parameter/{name}")[0]
        histogram = event.histogram_value
        assert event.step == 2
        assert (histogram.num, sum(histogram.bucket)) == (weight.numel(), weight.numel())
        assert histogram.sum == pytest.approx(weight.double().sum().item(), rel=1e-6, abs=1e-9)
        assert histogram.min == weight.min().item()
        assert histogram.max == weight.max().item()


def test_losses_rates_speed_waiting_and_memory_are_shown_by_default(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 10)

    spawn(train, 1, text, {"train_config.use_tensorboard": True})

    events = shown(tmp_path / "model")
    assert events.Tags()["histograms"] == []
    assert sorted(events.Tags()["scalars"]) == [
        "data_wait_share", "epoch", "loss/binary_cross_entropy", "loss/total", "lr/g0", "lr/g1",
        "memory/host_gib", "memory/host_peak_gib", "metric/auc", "samples_per_second",
    ]  # fmt: skip
    assert all(0 <= event.value <= 1 for event in events.Scalars("data_wait_share"))


def test_a_profile_shows_ten_steps_of_each_rank_and_changes_nothing(tmp_path):
    text = clicks.write(tmp_path, train_rows=2 * 64 * 13)
    plain, profiled = tmp_path / "plain", tmp_path / "profiled"

    spawn(train, 2, text, {"model_dir": str(plain)})
    spawn(train, 2, text, {"model_dir": str(profiled), "train_config.is_profiling": True})

    assert_same(weights(text, profiled), weights(text, plain), atol=0, rtol=0)
    assert results(profiled) == results(plain)
    files = sorted(path.name for path in (profiled / "profile").iterdir())
    assert files == ["rank-0-steps-3-12.json", "rank-1-steps-3-12.json"]
    for file in files:
        trace = json.loads((profiled / "profile" / file).read_text())
        names = [event.get("name", "") for event in trace["traceEvents"]]
        assert names.count("wait for the next batch") == 10
        assert any(name.startswith("aten::addmm") for name in names)


@pytest.mark.parametrize(
    ("num_steps", "edits", "file"),
    [
        (2, {}, "rank-0-steps-2-2.json"),
        (9, {"train_config.save_checkpoints_steps": 4}, "rank-0-steps-3-4.json"),
    ],
)
def test_a_short_training_is_profiled_as_far_as_it_goes(tmp_path, num_steps, edits, file):
    text = steps(clicks.write(tmp_path, train_rows=200), num_steps)

    spawn(train, 1, text, {**edits, "train_config.is_profiling": True})

    [path] = (tmp_path / "model" / "profile").iterdir()
    assert path.name == file
    assert json.loads(path.read_text())["traceEvents"]
