"""Whatever happens while a checkpoint is written, there is a whole one afterwards."""

import json
import math
import os
import resource
import shutil
import signal
import subprocess
import traceback
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor
from torchrec import EmbeddingBagConfig

from tests.distributed.ranks import RankError, run, spawn
from tests.tzrec_core.file_changes import FileChanges
from tests.tzrec_core.small_model import TABLES, SmallModel, local_weights, whole
from tests.tzrec_core.small_training import ADAGRAD, build, save, train
from tzrec_core.checkpoints import checkpoint, restoring
from tzrec_core.checkpoints.writer import CheckpointWriter, Content, collect
from tzrec_core.distributed.ranks import Ranks, process_group


def content_of(ranks: Ranks, step: int, model, optimizer, **changes) -> Content:
    position = {"epoch": 0, "consumed": {}, "state": {}, **changes}
    return collect(step, ranks, model=model, optimizer=optimizer, **position)


def same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


# killed


def train_on(model_dir: Path, kill_at: int | None) -> list[str]:
    """Goes on from the newest checkpoint for a step and saves; returns the changes of files."""
    with process_group() as ranks:
        model, optimizer = build(ranks, ADAGRAD, "adam", SmallModel())
        step, newest = 0, checkpoint.latest_intact(model_dir, ranks)
        if newest is not None:
            step = restoring.restore(newest, ranks, model=model, optimizer=optimizer).step
        train(ranks, model, optimizer, 8 * step, 8 * (step + 1))
        files = FileChanges(model_dir, kill_at=kill_at)
        save(ranks, model_dir, step + 1, model, optimizer)
        return files.seen


def forked(function, *arguments) -> int:
    """Calls a function in a fork, alone in its process group; returns how the fork ended."""
    fork = os.fork()
    if fork == 0:
        os.environ.pop("RANK")
        try:
            function(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(fork, 0)[1])


def be_killed_everywhere(expected_dir: Path, model_dir: Path) -> tuple[list[int], list[int]]:
    """Is killed once at every change of files, in a save each; returns what is found after each.

    The forks are those of a process that has imported everything and has never run anything.
    """
    for _ in range(2):
        assert forked(train_on, expected_dir, None) == 0
    assert forked(train_on, model_dir, None) == 0
    ended, found = [], []
    while True:
        ended.append(forked(train_on, model_dir, len(ended)))
        path = checkpoint.latest(model_dir)
        found.append(checkpoint.read_position(path).step)
        expected = weights(checkpoint.checkpoint_path(expected_dir, found[-1]))
        assert same(weights(path), expected)
        if found[-1] == 2:
            if ended[-1] == 0:
                return ended, found
            shutil.rmtree(path)


def weights(path: Path) -> dict[str, Tensor]:
    """Returns the weights of a checkpoint, whose files are checked."""
    module = SmallModel().to_empty(device="cpu")
    restoring.load_unsharded(path, module)
    return module.state_dict()


def test_a_training_that_is_killed_anywhere_in_a_save_goes_on_from_a_whole_one(tmp_path):
    expected, model_dir = tmp_path / "expected", tmp_path / "model"

    [(ended, found)] = spawn(be_killed_everywhere, 1, expected, model_dir)

    # Of two folders a data file and an index that is renamed, four files of JSON, the marker; at
    # last the new names of the checkpoint and the marker.
    num_killed = len(ended) - 1
    assert ended == [-signal.SIGKILL] * num_killed + [0]
    assert num_killed >= 15
    assert found == [1] * found.count(1) + [2] * found.count(2)
    assert found.count(1) >= 13
    assert found.count(2) >= 2
    assert sorted(path.name for path in model_dir.iterdir()) == [
        "latest", "model.ckpt-1", "model.ckpt-2"
    ]  # fmt: skip


def save_and_lose_rank_1(ranks: Ranks, model_dir: Path) -> None:
    model, optimizer = build(ranks, ADAGRAD, "adam", SmallModel())
    train(ranks, model, optimizer, 0, 8)
    save(ranks, model_dir, 1, model, optimizer)
    torch.save(local_weights(model), model_dir / f"expected-{ranks.rank}")
    train(ranks, model, optimizer, 8, 16)
    if ranks.rank == 1:
        FileChanges(model_dir, kill_at=0)
    save(ranks, model_dir, 2, model, optimizer)


def test_a_rank_that_dies_while_saving_costs_the_checkpoint_it_was_writing(tmp_path):
    with pytest.raises(RankError, match=r"rank 1 died: exit code -9|Connection closed by peer"):
        run(save_and_lose_rank_1, 2, tmp_path)

    assert checkpoint.steps(tmp_path) == [1]
    expected = [torch.load(tmp_path / f"expected-{rank}") for rank in (0, 1)]
    assert same(weights(checkpoint.latest(tmp_path)), whole(expected))


# no space


def save_twice(ranks: Ranks, model_dir: Path, limit: str) -> str:
    """Returns why the second checkpoint could not be saved."""
    a, b, _ = TABLES
    large = EmbeddingBagConfig(
        name="c", num_embeddings=10_000, embedding_dim=8, feature_names=["fc"]
    )
    model, optimizer = build(ranks, ADAGRAD, "adam", SmallModel((a, b, large)))
    train(ranks, model, optimizer, 0, 8)
    save(ranks, model_dir, 1, model, optimizer)
    train(ranks, model, optimizer, 8, 16)
    if limit == "file size":
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
    with pytest.raises(OSError, match="cannot save checkpoint") as caught:
        save(ranks, model_dir, 2, model, optimizer)
    dist.barrier(ranks.control)
    return str(caught.value)


def check_no_space(model_dir: Path, errors: list[str], reason: str) -> None:
    assert errors[0] == errors[1]
    assert reason in errors[0]
    assert errors[0].endswith("model.ckpt-1 stays the newest")
    assert sorted(path.name for path in model_dir.iterdir()) == ["latest", "model.ckpt-1"]
    checkpoint.check_files(model_dir / "model.ckpt-1", None)


def test_a_full_disk_keeps_the_old_checkpoint_and_says_so(tmp_path):
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(tmp_path)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("NOT TESTED: a full disk; mounting a small one takes root's rights")
    try:
        check_no_space(tmp_path, run(save_twice, 2, tmp_path, "disk"), "No space left on device")
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_file_that_may_not_grow_keeps_the_old_checkpoint_and_says_so(tmp_path):
    check_no_space(tmp_path, run(save_twice, 2, tmp_path, "file size"), "File too large")


def save_once(ranks: Ranks, model_dir: Path) -> None:
    model, optimizer = build(ranks, ADAGRAD, "adam", SmallModel())
    train(ranks, model, optimizer, 0, 8)
    save(ranks, model_dir, 1, model, optimizer)


def test_a_save_that_fails_at_its_end_leaves_nothing_but_the_checkpoint(tmp_path):
    (tmp_path / "latest").mkdir()  # which no file replaces

    with pytest.raises(RankError, match=r"OSError: cannot save checkpoint .*directory"):
        run(save_once, 1, tmp_path)

    assert sorted(path.name for path in tmp_path.iterdir()) == ["latest", "model.ckpt-1"]
    checkpoint.check_files(tmp_path / "model.ckpt-1", None)


# in the background


def train_and_save_often(ranks: Ranks, model_dir: Path, in_background: bool) -> dict[str, Tensor]:
    """Saves after each of five steps and trains on at once; returns this rank's last weights."""
    model, optimizer = build(ranks, ADAGRAD, "adam", SmallModel())
    with CheckpointWriter(model_dir, ranks, in_background=in_background) as writer:
        state = {"steps": []}
        for step in range(1, 6):
            train(ranks, model, optimizer, 8 * step - 8, 8 * step)
            state["steps"].append(step)
            writer.save(content_of(ranks, step, model, optimizer, state=state))
        train(ranks, model, optimizer, 40, 48)
        last = local_weights(model)
        with torch.no_grad():
            for weight in model.parameters():  # whatever is not written yet is not read from here
                weight.fill_(math.nan)
        state["steps"].append(math.nan)
    return last


def test_saving_in_the_background_changes_neither_training_nor_checkpoints(tmp_path):
    at_once, background = tmp_path / "at_once", tmp_path / "background"
    expected = run(train_and_save_often, 2, at_once, False)
    found = run(train_and_save_often, 2, background, True)

    assert same(whole(found), whole(expected))
    assert checkpoint.steps(background) == [1, 2, 3, 4, 5]
    for step in range(1, 6):
        ours, theirs = (checkpoint.checkpoint_path(d, step) for d in (background, at_once))
        files = [file.relative_to(ours) for file in ours.rglob("*.distcp")]
        assert len(files) == 4
        assert json.loads((ours / "state.json").read_text())["state"] == {
            "steps": list(range(1, step + 1))
        }
        for file in [*files, "plan", "state.json", "dataloader_state.json"]:
            assert (ours / file).read_bytes() == (theirs / file).read_bytes()


def save_and_fail(model_dir: Path, ranks: Ranks, content: Content) -> None:
    with CheckpointWriter(model_dir, ranks, in_background=True) as writer:
        writer.save(content)
        raise KeyError("what ended the training")


def save_where_nothing_can_be(ranks: Ranks, folder: Path) -> list[str]:
    """Returns what the writer says later of a checkpoint that could not be written."""
    model, optimizer = build(ranks, ADAGRAD, "adam", SmallModel())
    train(ranks, model, optimizer, 0, 8)
    said = []
    model_dir = folder / "file"
    content = content_of(ranks, 1, model, optimizer)
    with CheckpointWriter(model_dir, ranks, in_background=True) as writer:
        writer.save(content)
        for later in (lambda: writer.save(content), writer.wait):
            try:
                later()
                said.append("")
            except OSError as error:
                said.append(str(error))
        writer.save(content)
        with pytest.raises(OSError, match="cannot save"), writer:
            pass
    for where in (model_dir, folder):
        with pytest.raises(KeyError):
            save_and_fail(where, ranks, content)
    return said


def test_what_goes_wrong_in_the_background_is_said_at_the_next_opportunity(tmp_path):
    (tmp_path / "file").write_text("not a folder")

    of_ranks = run(save_where_nothing_can_be, 2, tmp_path)

    for at_next_save, at_wait in of_ranks:
        assert "cannot save checkpoint" in at_next_save
        assert "model.ckpt-1: " in at_next_save
        assert at_wait == ""  # the next save had not begun
    # A training that fails still completes the checkpoint that is being written.
    assert checkpoint.steps(tmp_path) == [1]
