"""Real processes, under real torchrun, that are killed or told to stop."""

import json
import os
import signal
import subprocess
import sys
from contextlib import contextmanager, suppress

import psutil
from mlflow import MlflowClient

from components.prepare_data.step import prepare_data
from components.train.step import train as train_step
from tests.distributed.ranks import spawn
from tests.pipeline_inputs import CONFIG, write_click_logs
from tests.tzrec_core.training.test_resume import assert_same_training, write
from tests.tzrec_core.training.test_trainer import train
from tzrec_core.checkpoints import checkpoint


@contextmanager
def started(command, **env):
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", *map(str, command)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **env},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    ranks = []
    try:
        yield process, ranks
    finally:
        # torchrun's processes are in sessions of their own and outlive it.
        for one in [*ranks, process]:
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.communicate()


def wait_for(process, text, count=1):
    """Reads the log to the ``count``-th line with ``text``; returns what it has read."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        count -= text in line
        if count == 0:
            return lines
    raise AssertionError(f"no {text!r} in:\n{''.join(lines)}")


def ranks_of(process):
    """Returns the processes that torchrun, wherever it is below ``process``, has started."""
    found = {}
    for child in psutil.Process(process.pid).children(recursive=True):
        environment = child.environ()
        if "tzrec_core.train_eval" in child.cmdline() and "RANK" in environment:
            found[int(environment["RANK"])] = child
    return [found[rank] for rank in sorted(found)]


def test_torchrun_starts_a_training_again_that_goes_on_by_itself(tmp_path):
    text, edits = write(tmp_path, world_size=2, num_workers=2)
    spawn(train, 2, text, {**edits, "model_dir": str(tmp_path / "whole")})
    (tmp_path / "my.config").write_text(text)
    command = [
        *("torch.distributed.run", "--standalone", "--nproc_per_node=2", "--max_restarts=1"),
        *("-m", "tzrec_core.train_eval", f"--pipeline_config_path={tmp_path / 'my.config'}"),
        f"--edit_config_json={json.dumps(edits)}",
    ]

    with started(command) as (process, ranks):
        wait_for(process, "Training Epoch")
        ranks += ranks_of(process)
        wait_for(process, "Eval Result")
        ranks[1].kill()
        output, _ = process.communicate(timeout=200)

    assert process.returncode == 0, output
    assert "Restored" in output
    assert_same_training(tmp_path / "model", tmp_path / "whole")


def test_the_train_step_that_is_told_to_stop_goes_on_when_it_is_run_again(
    tmp_path, monkeypatch, capfd
):
    write_click_logs(tmp_path / "clicks.parquet", num_rows=4000, seed=0)
    (tmp_path / "small.config").write_text(CONFIG)
    prepare_data(
        run_dir=str(tmp_path / "run"),
        pipeline_config=str(tmp_path / "small.config"),
        train_input_path=str(tmp_path / "clicks.parquet"),
        eval_fraction=0.05,
        edit_config_json=json.dumps(
            {"data_config.batch_size": 10, "train_config.save_checkpoints_steps": 99}
        ),
    )
    store = f"sqlite:///{tmp_path}/mlflow.db"
    command = ["components.cli", "train", f"--run_dir={tmp_path / 'run'}", "--num_processes=2"]

    def status():
        client = MlflowClient(store)
        (experiment,) = [e for e in client.search_experiments() if e.name != "Default"]
        runs = client.search_runs([experiment.experiment_id], "tags.stage = 'train'")
        return [run.info.status for run in runs]

    with started(command, MLFLOW_TRACKING_URI=store) as (process, ranks):
        wait_for(process, "Training Epoch", 3)
        ranks += ranks_of(process)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=200)
    assert process.returncode == 143, output
    assert "Unable to shutdown" not in output  # what torchrun says when it loses patience
    assert status() == ["KILLED"]
    (step,) = checkpoint.steps(tmp_path / "run" / "checkpoints")
    assert step % 99 != 0
    capfd.readouterr()
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")

    outputs = train_step(run_dir=str(tmp_path / "run"))

    assert f"model.ckpt-{step}" in capfd.readouterr().out
    assert outputs["checkpoints"]["step"] > step
    assert status() == ["FINISHED"]
