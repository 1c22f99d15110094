"""Schedules, parts, averages, accumulation and precision in a whole training."""

import logging

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.training.test_trainer import (
    assert_same,
    results,
    steps,
    train,
    train_and_listen,
)
from tzrec_core.assembly import check_model, unsharded
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import edit, loads
from tzrec_core.evaluation.evaluator import evaluate_checkpoint
from tzrec_core.exporting.directory import load_scripted
from tzrec_core.exporting.exporter import export
from tzrec_core.exporting.served import serving_model
from tzrec_core.features.build import build_schema

DENSE = "train_config.dense_optimizer"
NO_METRICS = {"model_config.train_metrics": None}
# Everything that has to survive a restart.
EVERYTHING = {
    **NO_METRICS,
    "data_config.shuffle": True,
    "train_config.sparse_optimizer": """
        adagrad_optimizer { lr: 0.1 }
        exponential_decay_learning_rate { decay_size: 1 decay_factor: 0.5 by_epoch: true }""",
    DENSE: """
        adam_optimizer { lr: 0.02 }
        exponential_decay_learning_rate {
          decay_size: 2 decay_factor: 0.9 staircase: false warmup_size: 8 }
        ema { decay: 0.5 }
        part_optimizers { regex_pattern: ".*bias" sgd_optimizer { lr: 0.1 }
          cosine_annealing_warm_restarts_learning_rate { T_0: 3 T_mult: 2 } }
        part_optimizers { regex_pattern: ".*output.weight" adamw_optimizer { lr: 0.01 } }""",
    "train_config.gradient_accumulation_steps": 3,
    "train_config.grad_scaler": "init_scale: 1024 growth_interval: 2",
    "train_config.mixed_precision": "BF16",
    "train_config.grad_clipping": 'clipping_type: "norm" max_gradient: 0.5',
    "train_config.log_step_count_steps": 1,
    "train_config.use_tensorboard": True,
}


def model_of(text, model_dir, *, averaged=False):
    config = loads(text, source="test")
    return unsharded(config, checkpoint.latest(model_dir), averaged=averaged)


def logged(model_dir):
    """Returns by step the values in the event files of a training, of all its processes."""
    values = {}
    for file in sorted(model_dir.glob("events.*")):
        events = EventAccumulator(str(file)).Reload()
        for tag in events.Tags()["scalars"]:
            if tag.startswith(("lr/", "loss")):
                for event in events.Scalars(tag):
                    values.setdefault(event.step, {})[tag] = event.value
    return values


@pytest.mark.parametrize("world_size", [1, 2])
def test_continuing_keeps_rates_averages_parts_and_the_loss_scale_to_the_bit(tmp_path, world_size):
    # Ten steps an epoch, updated after the 3rd, 6th, 9th and 10th.
    text = clicks.write(tmp_path, train_rows=world_size * (64 * 9 + 30))
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    edits = {**EVERYTHING, "model_dir": str(whole)}
    said = spawn(train_and_listen, world_size, steps(text, 20), edits)
    for num_steps in (6, 13, 20):
        edits = {**EVERYTHING, "model_dir": str(parts)}
        spawn(train, world_size, steps(text, num_steps), edits, True)

    for averaged in (False, True):
        ours = model_of(text, parts, averaged=averaged).state_dict()
        assert_same(ours, model_of(text, whole, averaged=averaged).state_dict(), atol=0, rtol=0)
    assert logged(parts) == logged(whole)
    rates = logged(whole)
    assert list(rates) == list(range(1, 21))
    assert [rates[step]["lr/g0"] for step in (1, 10, 11, 20)] == pytest.approx(
        [0.1, 0.1, 0.05, 0.05]
    )
    assert [rates[step]["lr/g1"] for step in (1, 5, 9, 11)] == pytest.approx([0, 0.01, 0.02, 0.018])
    assert rates[4]["lr/g2"] == pytest.approx(0.1)  # restarts after three steps
    assert rates[5]["lr/g3"] == pytest.approx(0.005)  # the dense optimizer's schedule
    assert [rates[step]["loss_scale"] for step in (5, 6, 20)] == [1024, 2048, 16384]
    parts_of = [line for line in said[0] if " trains " in line]
    assert [line.split(" trains ")[0] for line in parts_of] == [
        "part_optimizers[0] '.*bias'", "part_optimizers[1] '.*output.weight'", "dense_optimizer",
    ]  # fmt: skip
    assert parts_of[1].endswith("network.output.weight")
    assert "network.deep." in parts_of[2]
    assert "bias" not in parts_of[2]


def test_a_checkpoint_waits_for_the_update(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 10)
    edits = {
        "train_config.gradient_accumulation_steps": 3,
        "train_config.save_checkpoints_steps": 4,
    }

    spawn(train, 1, text, edits)

    assert checkpoint.steps(tmp_path / "model") == [6, 9, 13, 16, 20]


@pytest.mark.parametrize("world_size", [1, 2])
def test_accumulated_batches_train_the_dense_parameters_as_one_large_batch(tmp_path, world_size):
    text = clicks.write(tmp_path, train_rows=128 * 5 + 40)
    frozen = {"train_config.sparse_optimizer.adagrad_optimizer.lr": 0}
    one, many = tmp_path / "one", tmp_path / "many"

    spawn(train, 1, text, {**frozen, "model_dir": str(one), "data_config.batch_size": 128})
    spawn(
        train,
        world_size,
        text,
        {
            **frozen,
            "model_dir": str(many),
            "data_config.batch_size": 64 // world_size,
            "train_config.gradient_accumulation_steps": 2,
        },
    )

    ours, theirs = (model_of(text, folder).state_dict() for folder in (many, one))
    assert_same(ours, theirs, atol=1e-5, rtol=1e-4)


# Of SGD the size of the gradient counts: tables must not see the scaled one.
SGD = {"train_config.sparse_optimizer": "sgd_optimizer { lr: 1.0 }"}


def test_a_grad_scaler_changes_nothing_in_float32(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 8)
    plain, scaled = tmp_path / "plain", tmp_path / "scaled"

    spawn(train, 1, text, {**SGD, "model_dir": str(plain)})
    spawn(train, 1, text, {**SGD, "model_dir": str(scaled), "train_config.grad_scaler": "{}"})

    ours, theirs = (model_of(text, folder).state_dict() for folder in (scaled, plain))
    assert_same(ours, theirs, atol=0, rtol=0)


def test_mixed_precision_learns_what_float32_learns(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 40, eval_rows=600)
    scaled = {"train_config.grad_scaler": "{}"}
    folders = {"full": {}} | {
        precision: {"train_config.mixed_precision": precision, **scaled}
        for precision in ("BF16", "FP16")
    }

    for name, edits in folders.items():
        spawn(train, 1, text, {**SGD, **edits, "model_dir": str(tmp_path / name)})

    result = {name: results(tmp_path / name)[-1] for name in folders}
    weights = {name: model_of(text, tmp_path / name).state_dict() for name in folders}
    for name in ("BF16", "FP16"):
        for metric in ("auc", "binary_cross_entropy"):
            assert result[name][metric] == pytest.approx(result["full"][metric], abs=0.01)
        ours = weights[name]
        assert any(not torch.equal(ours[key], weights["full"][key]) for key in ours)
        assert all(weight.dtype == torch.float32 for weight in ours.values())


class Tf32(logging.Handler):
    """Notes at the first log line whether CUDA may round factors, of products and in cuDNN."""

    def __init__(self):
        super().__init__()
        self.seen = None
        log = logging.getLogger("tzrec_core")
        log.setLevel(logging.INFO)
        log.addHandler(self)

    def emit(self, record):
        if self.seen is None and "Training Epoch" in record.getMessage():
            backends = torch.backends
            self.seen = (backends.cuda.matmul.allow_tf32, backends.cudnn.allow_tf32)


def train_and_look(text, edits):
    handler = Tf32()
    train(text, edits)
    return handler.seen


@pytest.mark.parametrize(("matmul", "cudnn"), [(True, False), (False, True)])
def test_tf32_is_as_asked_for_while_training(tmp_path, matmul, cudnn):
    text = clicks.write(tmp_path, train_rows=64 * 5)
    asked = {
        "train_config.cuda_matmul_allow_tf32": matmul,
        "train_config.cudnn_allow_tf32": cudnn,
        "eval_input_path": "",
    }

    assert spawn(train_and_look, 1, text, asked) == [(matmul, cudnn)]


def test_gradients_that_overflow_from_the_start_end_the_training(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 4)
    scaler = {
        "train_config.mixed_precision": "FP16",
        "train_config.grad_scaler": "init_scale: 3e38 backoff_factor: 0.99",
    }

    with pytest.raises(RankError, match=r"no gradient was finite in the 8 steps so far; lower"):
        spawn(train, 1, text, scaler)

    assert checkpoint.steps(tmp_path / "model") == []


def test_an_evaluation_that_is_made_up_for_needs_no_gradients(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    scaled = {"train_config.grad_scaler": "{}"}
    spawn(train, 1, text, scaled)
    [before] = results(tmp_path / "model")
    (tmp_path / "model" / "train_eval_result.txt").unlink()

    spawn(train, 1, text, scaled, True, True)

    assert results(tmp_path / "model") == [before]


def test_weights_that_are_no_numbers_are_not_saved_even_if_the_loss_still_was_one(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)

    with pytest.raises(
        RankError, match=r"FloatingPointError: NaN or infinite weights after step 1"
    ):
        spawn(train, 1, steps(text, 1), {DENSE: "sgd_optimizer { lr: 3e38 weight_decay: 1e3 }"})

    assert checkpoint.steps(tmp_path / "model") == []


AVERAGED = {f"{DENSE}.ema": "decay: 0.9"}


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A training with averages: the text of its config and its folder."""
    folder = tmp_path_factory.mktemp("averaged")
    text = clicks.write(folder, train_rows=64 * 8)
    spawn(train, 2, text, AVERAGED)
    return text, folder


def evaluated(text, edits, path, result_path):
    config = loads(text, source="test")
    edit(config, {**AVERAGED, **edits})
    return evaluate_checkpoint(config, checkpoint_path=path, result_path=result_path)


def test_evaluation_is_of_the_averages_unless_asked_otherwise(averaged, tmp_path):
    text, folder = averaged
    path = checkpoint.latest(folder / "model")

    def of(use):
        edits = {} if use is None else {"eval_config.use_dense_ema": use}
        return spawn(evaluated, 1, text, edits, path, tmp_path / "results.txt")[0]

    while_training = dict(results(folder / "model")[-1])
    del while_training["global_step"]
    assert of(None) == pytest.approx(while_training, abs=1e-6)
    assert of(True) == of(None)
    assert of(False)["binary_cross_entropy"] != pytest.approx(
        while_training["binary_cross_entropy"], abs=1e-6
    )


def test_the_export_has_the_averages_unless_asked_otherwise(averaged, tmp_path):
    text, folder = averaged
    path = checkpoint.latest(folder / "model")
    config = loads(text, source="test")
    edit(config, AVERAGED)
    for use in (None, False):
        if use is not None:
            config.export_config.use_dense_ema = use
        directory = tmp_path / str(use)

        export(config, checkpoint_path=path, export_dir=directory, check_config=config)

        model = unsharded(config, path, averaged=use is None)
        expected = serving_model(model, build_schema(config)).state_dict()
        assert_same(
            dict(load_scripted(directory / "scripted_model.pt").state_dict()),
            dict(expected),
            atol=0,
            rtol=0,
        )
    raw, ema = (unsharded(config, path, averaged=flag).state_dict() for flag in (False, True))
    changed = {name for name in raw if not torch.equal(raw[name], ema[name])}
    assert changed == {name for name in raw if "embeddings." not in name}


def test_a_checkpoint_without_averages_says_so(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 4)
    spawn(train, 1, text, {})
    path = checkpoint.latest(tmp_path / "model")

    with pytest.raises(
        ValueError, match=r"has no averages of dense parameters.*use_dense_ema: false"
    ):
        unsharded(loads(text, source="test"), path, averaged=True)


def test_a_part_of_no_parameter_is_known_before_anything_is_written(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 4)
    part = {f"{DENSE}.part_optimizers": '[{ regex_pattern: "wide" sgd_optimizer {} }]'}
    config = loads(text, source="test")
    edit(config, part)

    with pytest.raises(ValueError, match=r"'wide' matches no .*network\.output\.bias"):
        check_model(config)

    with pytest.raises(RankError, match=r"part_optimizers\[0\].regex_pattern 'wide' matches no"):
        spawn(train, 1, text, part)

    assert not (tmp_path / "model").exists()
