"""What a pod of a job runs, with the environment that an operator gives it."""

import os
import socket
import subprocess
import sys
import time

import psutil

from components.prepare_data.step import prepare_data
from components.train import worker
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core.run_dir import RunDir
from tzrec_core.training import finished
from tzrec_core.training.finished import Finished


def prepared(folder, monkeypatch) -> RunDir:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    (folder / "small.config").write_text(CONFIG)
    data = write_click_logs(folder / "clicks.parquet", num_rows=1000, seed=0)
    place = RunDir(folder / "run")
    prepare_data(
        run_dir=str(place.path),
        pipeline_config=str(folder / "small.config"),
        train_input_path=str(data),
        eval_fraction=0.2,
    )
    return place


def start_workers(place: RunDir, *, number: int) -> list[subprocess.Popen]:
    """Starts some of the two workers of a job."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        endpoint = f"127.0.0.1:{free.getsockname()[1]}"
    # As the training operator does for an elastic PyTorchJob.
    operator = {
        "PET_RDZV_BACKEND": "c10d", "PET_RDZV_ENDPOINT": endpoint, "PET_RDZV_ID": "tzrec-job",
        "PET_RDZV_CONF": "read_timeout=300", "PET_NNODES": "2:2", "PET_NPROC_PER_NODE": "1",
        "PET_MAX_RESTARTS": "3",
    }  # fmt: skip
    return [
        subprocess.Popen(
            [sys.executable, "-u", "-m", "components.train.worker", f"--run_dir={place.path}"],
            env={**os.environ, **operator, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        )
        for _ in range(number)
    ]  # fmt: skip


def test_two_workers_train_one_model_and_leave_word_of_it(tmp_path, monkeypatch):
    place = prepared(tmp_path, monkeypatch)

    workers = start_workers(place, number=2)
    outputs = [worker.communicate()[0] for worker in workers]

    assert [worker.returncode for worker in workers] == [0, 0], outputs
    last = place.checkpoint_steps()[-1]
    assert finished.read(place.checkpoints) == Finished(last, 2, "tzrec-job")


def test_a_worker_that_is_told_to_stop_while_torchrun_starts_ends_with_it(tmp_path, monkeypatch):
    place = prepared(tmp_path, monkeypatch)
    [alone] = start_workers(place, number=1)
    while not (children := psutil.Process(alone.pid).children()):
        time.sleep(0.05)

    alone.terminate()
    alone.communicate()

    assert alone.returncode == 143
    assert not any(child.is_running() for child in children)


def test_a_worker_without_a_prepared_run_directory_is_a_mistake_in_one_line(tmp_path):
    command = [sys.executable, "-m", "components.train.worker", f"--run_dir={tmp_path}"]
    ended = subprocess.run(command, text=True, capture_output=True)

    assert ended.returncode == 2
    assert ended.stderr.count("error: ") == 1
    assert "run prepare_data on this run_dir first" in ended.stderr


def test_only_a_container_that_was_restarted_waits(tmp_path, capsys):
    started = tmp_path / "started"

    worker.let_rendezvous_forget(started, seconds=0)
    assert capsys.readouterr().out == ""
    worker.let_rendezvous_forget(started, seconds=0)
    assert "restarted" in capsys.readouterr().out
