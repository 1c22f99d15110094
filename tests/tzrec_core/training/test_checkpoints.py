"""A training and its checkpoints: in the background, killed, damaged, of another model."""

import os
import resource
from pathlib import Path

import pytest
import torch

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.file_changes import FileChanges
from tests.tzrec_core.training.test_trainer import (
    assert_same,
    results,
    steps,
    train,
    train_and_listen,
    weights,
)
from tzrec_core.checkpoints import checkpoint
from tzrec_core.training.lock import FILE as LOCK_FILE
from tzrec_core.training.lock import locked

OFTEN = {"train_config.save_checkpoints_steps": 4, "data_config.shuffle": True}


def files(model_dir):
    return sorted(path.name for path in Path(model_dir).iterdir())


@pytest.mark.parametrize("eval_input", ["eval.parquet", ""])
def test_checkpoints_in_the_background_are_those_of_a_training_that_waits(tmp_path, eval_input):
    text = clicks.write(tmp_path, train_rows=2 * 64 * 7)
    if not eval_input:
        text = text.replace(f'eval_input_path: "{tmp_path}/eval.parquet"', "")
    at_once, background = str(tmp_path / "at_once"), str(tmp_path / "background")
    edits = {**OFTEN, "train_config.keep_checkpoint_max": 2}

    spawn(train, 2, text, {**edits, "model_dir": at_once})
    edits["train_config.save_checkpoints_async"] = True
    spawn(train, 2, text, {**edits, "model_dir": background})

    assert checkpoint.steps(Path(background)) == checkpoint.steps(Path(at_once)) == [12, 14]
    assert files(background) == files(at_once)
    assert_same(weights(text, background), weights(text, at_once), rtol=0, atol=0)
    if eval_input:
        assert results(background) == results(at_once)


def test_a_second_training_is_kept_out_and_leaves_everything_as_it_is(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)

    with locked(tmp_path / "model"):
        refusal = f"ValueError: .*model is being trained into by process {os.getpid()} on "
        with pytest.raises(RankError, match=refusal):
            spawn(train, 2, text, {}, True)
        assert files(tmp_path / "model") == [LOCK_FILE]

    spawn(train, 2, text, {}, True)
    assert LOCK_FILE not in files(tmp_path / "model")


def train_and_die(text, edits, rank, kill_at):
    """Trains; one rank is killed at a change of the files."""
    if os.environ["RANK"] == str(rank):
        FileChanges(Path(edits["model_dir"]), kill_at=kill_at)
    train(text, edits, True)


@pytest.mark.parametrize(
    ("world_size", "rank", "kill_at"),
    [
        (1, 0, "os.rename .model.ckpt-8.incomplete"),
        (1, 0, "os.rename .latest.incomplete"),
        (2, 1, 5),  # the data file of its second checkpoint
    ],
)
def test_a_training_killed_in_a_save_goes_on_to_what_it_would_have_come_to(
    tmp_path, world_size, rank, kill_at
):
    text = steps(clicks.write(tmp_path, train_rows=64 * 10), 10)
    whole = {**OFTEN, "model_dir": str(tmp_path / "whole")}
    killed = {**OFTEN, "model_dir": str(tmp_path / "killed")}
    spawn(train, world_size, text, whole)

    with pytest.raises(RankError, match=r"died: exit code -9|Connection closed by peer"):
        spawn(train_and_die, world_size, text, killed, rank, kill_at)
    assert checkpoint.steps(tmp_path / "killed") == [4]
    spawn(train, world_size, text, killed, True)

    assert checkpoint.steps(tmp_path / "killed") == [4, 8, 10]
    assert files(tmp_path / "killed") == files(tmp_path / "whole")
    assert_same(
        weights(text, tmp_path / "killed"), weights(text, tmp_path / "whole"), rtol=0, atol=0
    )


def test_a_damaged_newest_checkpoint_costs_the_steps_after_the_one_before(tmp_path):
    text = steps(clicks.write(tmp_path, train_rows=64 * 10), 10)
    edits = {**OFTEN, "model_dir": str(tmp_path / "model"), "train_config.keep_checkpoint_max": 2}
    spawn(train, 1, text, edits)
    expected = weights(text, tmp_path / "model")
    file = tmp_path / "model" / "model.ckpt-10" / "model" / "__0_0.distcp"
    os.truncate(file, 1000)

    # What is asked for by its name is not replaced by something else.
    with pytest.raises(ValueError, match=r"model\.ckpt-10 is damaged: model/__0_0\.distcp has 1"):
        weights(text, tmp_path / "model")
    [lines] = spawn(train_and_listen, 1, text, edits, True)

    said = "\n".join(lines)
    assert "model.ckpt-10: model/__0_0.distcp has 1000 bytes, not " in said
    assert "Going on from model.ckpt-8" in said
    assert checkpoint.steps(tmp_path / "model") == [8, 10]
    assert "model.ckpt-10.damaged" in files(tmp_path / "model")
    assert_same(weights(text, tmp_path / "model"), expected, rtol=0, atol=0)


def train_with_small_files(text, edits):
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
    train(text, edits)


@pytest.mark.parametrize("in_background", [False, True])
def test_a_checkpoint_that_cannot_be_saved_ends_the_training(tmp_path, in_background):
    text = clicks.write(tmp_path, train_rows=64 * 10)
    edits = {**OFTEN, "train_config.save_checkpoints_async": in_background}

    refusal = r"OSError: cannot save checkpoint .*model\.ckpt-4: .*File too large; there is no earl"
    with pytest.raises(RankError, match=refusal):
        spawn(train_with_small_files, 1, text, edits)

    assert checkpoint.steps(tmp_path / "model") == []
    assert not list((tmp_path / "model").glob(".*"))


BAGS = "model.embeddings.{}.embedding_bags.{}.weight"


def test_fine_tuning_takes_what_fits_by_the_names_of_the_map(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    spawn(train, 1, text, {})
    before = weights(text, tmp_path / "model")
    param_map = tmp_path / "map"
    param_map.write_text(f"{BAGS.format('deep', 'thing_emb')}\t{BAGS.format('deep', 'item_emb')}\n")
    other = text.replace('"item"', '"thing"').replace("num_buckets: 40", "num_buckets: 41")
    tuned = {
        "model_dir": str(tmp_path / "tuned"),
        "train_config.fine_tune_checkpoint": str(tmp_path / "model"),
        "train_config.fine_tune_ckpt_param_map": str(param_map),
        "train_config.sparse_optimizer.adagrad_optimizer.lr": 0.0,
        "train_config.dense_optimizer.sgd_optimizer.lr": 0.0,
    }

    lines, on_rank_1 = spawn(train_and_listen, 2, other, tuned)

    after = weights(other, tmp_path / "tuned")
    expected = {
        name: before[name.replace("deep.embedding_bags.thing_emb", "deep.embedding_bags.item_emb")]
        for name in after
        if "user_emb" not in name and "thing_emb_wide" not in name
    }
    assert len(expected) == 10
    assert_same({name: after[name] for name in expected}, expected, rtol=0, atol=0)
    grown = BAGS.format("deep", "user_emb")
    assert not torch.isclose(after[grown][:40], before[grown]).any()
    assert on_rank_1 == []
    said = "\n".join(lines)
    assert "10 of 13 tensors restored" in said
    assert f"{grown} [41, 8]: the checkpoint's is [40, 8]" in said
    assert BAGS.format("wide", "thing_emb_wide") + " [500, 4]: the checkpoint has no such" in said


def test_the_state_of_another_sparse_optimizer_is_not_taken_for_ours(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    spawn(train, 1, text, {})
    # Both keep one number a weight: sums of squares, and momenta.
    lars = text.replace("adagrad_optimizer { lr: 0.1 }", "lars_sgd_optimizer { lr: 0.1 }", 1)

    with pytest.raises(RankError, match="has the state of adagrad_optimizer, not that of the conf"):
        spawn(train, 1, lars, {"train_config.num_epochs": 3}, True)
    tuned = {
        "model_dir": str(tmp_path / "tuned"),
        "train_config.fine_tune_checkpoint": str(tmp_path / "model"),
    }
    [lines] = spawn(train_and_listen, 1, lars, tuned)

    assert "start anew (the checkpoint's is of adagrad_optimizer) (7):" in "\n".join(lines)
