"""A training that is killed or told to stop, and goes on, comes to what it would have come to."""

import os
import random
import signal
from pathlib import Path

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.distributed.checkpoint import FileSystemReader

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.file_changes import FileChanges
from tests.tzrec_core.training.signal_at import SignalAt
from tests.tzrec_core.training.test_trainer import results, steps, train
from tzrec_core.checkpoints import checkpoint, tensor_files
from tzrec_core.config import loads
from tzrec_core.evaluation.evaluator import evaluate_checkpoint

EVERYTHING = """
  sparse_optimizer {
    adam_optimizer { lr: 0.02 }
    exponential_decay_learning_rate { decay_size: 7 decay_factor: 0.9 warmup_size: 9 }
  }
  dense_optimizer {
    adam_optimizer { lr: 0.02 } cosine_annealing_learning_rate { T_max: 30 } ema { decay: 0.8 }
  }
"""
SIMPLE = """
  sparse_optimizer { adagrad_optimizer { lr: 0.1 } constant_learning_rate {} }
  dense_optimizer { sgd_optimizer { lr: 0.1 } constant_learning_rate {} }
"""
OFTEN = {
    "data_config.shuffle": True,
    "train_config.save_checkpoints_steps": 7,
    "train_config.log_step_count_steps": 3,
    "model_config.train_metrics[0].decay_step": 3,
}
# Of the killed rank, or of one that was waiting for it.
KILLED = r"died: exit code -9|Connection (closed|reset) by peer"


def write(folder, *, world_size, num_workers):
    """Returns config and edits of a training with whatever has a state: 40 steps of 32 rows."""
    text = clicks.write(folder, train_rows=32 * 20 - 7)
    assert SIMPLE in text
    text = text.replace(SIMPLE, EVERYTHING).replace(
        "hidden_units: [16, 8]", "hidden_units: [16, 8] use_bn: true dropout_ratio: 0.3"
    )
    return text, {
        **OFTEN,
        "data_config.batch_size": 32 // world_size,
        "data_config.eval_batch_size": 75,
        "data_config.num_workers": num_workers,
        "train_config.num_epochs": 2,
        "train_config.gradient_accumulation_steps": 2,
        "train_config.keep_checkpoint_max": 2,
        "train_config.use_tensorboard": True,
    }


def train_and_be_told(text, edits, continue_train, told):
    """Trains; rank 0 gets the signals of ``told``, each at its line of the log."""
    if os.environ["RANK"] == "0":
        for line, signum, count, delay in told:
            SignalAt(line, signum, count=count, delay=delay)
    train(text, edits, continue_train)


def tensors(path):
    """Returns every tensor of a checkpoint by its folder and name."""
    whole = {}
    for folder in (path / "model", path / "optimizer", path / "ema"):
        if not folder.exists():
            continue
        entries = FileSystemReader(folder).read_metadata().state_dict_metadata
        of_folder = {
            name: torch.empty(entry.size, dtype=entry.properties.dtype)
            for name, entry in entries.items()
        }
        tensor_files.read(folder, of_folder, None)
        whole.update({f"{folder.name}/{name}": value for name, value in of_folder.items()})
    return whole


def scalars(model_dir):
    """Returns what TensorBoard shows of each value, by its step."""
    events = EventAccumulator(str(model_dir), size_guidance={"scalars": 0}).Reload()
    return {
        tag: {event.step: event.value for event in events.Scalars(tag)}
        for tag in events.Tags()["scalars"]
        if tag.startswith(("loss/", "metric/", "lr/"))
    }


def assert_same_training(ours, theirs, *, metrics_rtol=0.0):
    """Compares all that two trainings have left, bit by bit but perhaps for the train metrics."""
    newest = checkpoint.latest(ours)
    assert newest.name == checkpoint.latest(theirs).name
    mine, other = tensors(newest), tensors(checkpoint.latest(theirs))
    assert mine.keys() == other.keys()
    assert [name for name in mine if not torch.equal(mine[name], other[name])] == []
    mine, other = (checkpoint.read_position(folder / newest.name) for folder in (ours, theirs))
    sums = []
    for position in (mine, other):
        del position.state["launch"]
        sums.append(position.state["train_metrics"]["auc"].pop("sums"))
    assert mine == other
    for name in ("decayed", "recent"):
        assert sums[0][name] == pytest.approx(sums[1][name], rel=metrics_rtol, abs=0)
    assert results(ours) == results(theirs)


@pytest.fixture(scope="module", params=[1, 2])
def uninterrupted(request, tmp_path_factory):
    """A training that nothing has happened to: on how many ranks, its config, edits and folder."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    # Nothing depends on how rows are read: without threads on one rank, with threads on two.
    num_workers = 0 if request.param == 1 else 2
    text, edits = write(folder, world_size=request.param, num_workers=num_workers)
    spawn(train, request.param, text, edits)
    return request.param, text, edits, folder / "model"


def test_a_training_killed_at_any_moment_loses_nothing(uninterrupted, tmp_path):
    world_size, text, edits, whole = uninterrupted
    killed = tmp_path / "killed"
    moments = random.Random(world_size)

    for attempt in range(2):
        told = ("Training Epoch", signal.SIGKILL, moments.randint(3, 6), moments.uniform(0, 0.05))
        changed = {**edits, "model_dir": str(killed)}
        with pytest.raises(RankError, match=KILLED):
            spawn(train_and_be_told, world_size, text, changed, attempt > 0, [told])
    spawn(train, world_size, text, {**edits, "model_dir": str(killed)}, True)

    assert checkpoint.steps(whole)[-1] == 40
    assert_same_training(killed, whole)
    shown = scalars(killed)
    assert {name: values | shown[name] for name, values in scalars(whole).items()} == scalars(whole)


def test_a_training_told_to_stop_ends_with_a_checkpoint_and_loses_nothing(uninterrupted, tmp_path):
    world_size, text, edits, whole = uninterrupted
    signum = signal.SIGINT if world_size == 1 else signal.SIGTERM
    stopped = tmp_path / "stopped"

    edits = {**edits, "model_dir": str(stopped)}
    told = ("Training Epoch", signum, 11, None)  # after step 33, when 34 completes the update
    with pytest.raises(RankError, match=f"Stopped: {128 + signum}"):
        spawn(train_and_be_told, world_size, text, edits, False, [told])
    assert checkpoint.steps(stopped) == [28, 34]
    assert results(stopped)[-1]["global_step"] == 28
    assert not (stopped / ".training.lock").exists()
    spawn(train, world_size, text, edits, True)

    # A save makes rank 0 add up what all ranks have counted, which rounds.
    assert_same_training(stopped, whole, metrics_rtol=1e-12)


def test_an_evaluation_that_is_cut_off_is_made_good_for(tmp_path):
    text = steps(clicks.write(tmp_path, train_rows=640), 10)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    edits = {**OFTEN, "eval_config.log_step_count_steps": 1}
    spawn(train, 2, text, {**edits, "model_dir": str(whole)})

    for _ in range(2):  # the second time in the evaluation that is made up for
        # Each start begins with the rehearsal of an evaluation.
        told = ("Evaluating: 1it", signal.SIGTERM, 2, None)
        stop = {**edits, "model_dir": str(stopped), "train_config.save_checkpoints_async": True}
        with pytest.raises(RankError, match="Stopped: 143"):
            spawn(train_and_be_told, 2, text, stop, True, [told])
        assert checkpoint.steps(stopped) == [7]
        assert not (stopped / "train_eval_result.txt").exists()
    spawn(train, 2, text, {**edits, "model_dir": str(stopped)}, True)

    assert_same_training(stopped, whole)


def train_and_be_told_in_a_save(text, edits):
    if os.environ["RANK"] == "1":
        FileChanges(Path(edits["model_dir"]), kill_at="open __1_0.distcp", signum=signal.SIGTERM)
    train(text, edits)


@pytest.mark.parametrize("in_background", [False, True])
def test_a_save_is_finished_although_one_rank_is_told_to_stop(tmp_path, in_background):
    text = clicks.write(tmp_path, train_rows=640)
    model_dir = tmp_path / "model"
    edits = {
        **OFTEN,
        "model_dir": str(model_dir),
        "train_config.save_checkpoints_async": in_background,
    }

    with pytest.raises(RankError, match="Stopped: 143"):
        spawn(train_and_be_told_in_a_save, 2, text, edits)

    assert 7 in checkpoint.steps(model_dir)
    assert [p.name for p in model_dir.glob(".*")] == []


def test_a_training_that_is_told_to_stop_before_its_first_step_leaves_no_checkpoint(tmp_path):
    text = clicks.write(tmp_path, train_rows=640)

    with pytest.raises(RankError, match="Stopped: 143"):
        spawn(train_at_once_told, 1, text, {"train_config.use_tensorboard": True})

    assert checkpoint.steps(tmp_path / "model") == []


def train_at_once_told(text, edits):
    model_dir = Path(loads(text, source="test").model_dir)
    FileChanges(model_dir, kill_at="os.mkdir eval_val", signum=signal.SIGTERM)
    train(text, edits)


def train_as_restarted(text, edits, launch, *, restarts="1"):
    """Trains as torchrun starts it, which gives the same flags again after a failure."""
    os.environ.update(TORCHELASTIC_RUN_ID=launch, TORCHELASTIC_RESTART_COUNT=restarts)
    # The first attempt has left the optimizers' state aside; what it saved is the second one's own.
    train(text, edits, ignore_restore_optimizer=True)


def test_only_what_the_same_launch_has_begun_is_gone_on_with_unasked(tmp_path):
    text = clicks.write(tmp_path, train_rows=640)
    begin, go_on = ({"train_config.num_epochs": number} for number in (1, 2))
    spawn(train_as_begun, 1, text, begin, "one")
    expected = r"already holds model\.ckpt-10; pass --continue_train"

    with pytest.raises(RankError, match=expected):
        spawn(train_as_restarted, 1, text, go_on, "another")
    with pytest.raises(RankError, match=expected):
        spawn(train_as_begun, 1, text, go_on, "one")
    spawn(train_as_restarted, 1, text, go_on, "one")
    whole = {**go_on, "model_dir": str(tmp_path / "whole")}
    spawn(train_as_begun, 1, text, whole, "one")

    assert checkpoint.steps(tmp_path / "model") == [10, 20]
    ours, theirs = (tensors(tmp_path / name / "model.ckpt-20") for name in ("model", "whole"))
    assert [name for name in ours if not torch.equal(ours[name], theirs[name])] == []


def train_as_begun(text, edits, launch):
    train_as_restarted(text, edits, launch, restarts="0")


def evaluated(text, path, folder):
    return evaluate_checkpoint(
        loads(text, source="test"), checkpoint_path=path, result_path=folder / "again.txt"
    )


def test_ranks_with_batch_norm_evaluate_the_model_that_they_save(uninterrupted, tmp_path):
    _, text, _, whole = uninterrupted

    (again,) = spawn(evaluated, 1, text, checkpoint.latest(whole), tmp_path)

    in_training = results(whole)[-1]
    assert again == pytest.approx({name: in_training[name] for name in again}, abs=1e-6)


def test_a_training_goes_on_at_any_number_of_ranks_with_the_same_curve(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 20, group_rows=64).replace(SIMPLE, EVERYTHING)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    edits = {
        **OFTEN,
        "data_config.shuffle": False,
        "train_config.save_checkpoints_steps": 4,
        "train_config.use_tensorboard": True,
        "eval_input_path": "",
    }
    spawn(train, 1, text, {**edits, "model_dir": str(whole), "data_config.batch_size": 128})

    edits["model_dir"] = str(parts)
    for world_size, count in ((2, 2), (1, 1), (2, 1)):
        edits["data_config.batch_size"] = 128 // world_size
        told = ("Training Epoch", signal.SIGKILL, count, 0.02)
        with pytest.raises(RankError, match=KILLED):
            spawn(train_and_be_told, world_size, text, edits, True, [told])
    spawn(train, 2, text, {**edits, "data_config.batch_size": 64}, True)

    # A step more or less would be a row lost or used twice: all batches are full.
    assert checkpoint.steps(whole)[-1] == checkpoint.steps(parts)[-1] == 20
    for name, values in scalars(whole).items():
        continued = scalars(parts)[name]
        assert continued.keys() == values.keys()
        assert continued == pytest.approx(values, abs=1e-4)
