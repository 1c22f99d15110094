import logging
import math
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager

import pytest
import torch
from mlflow import MlflowClient
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tzrec_core import mlflow_run, tracking
from tzrec_core.histogram import histogram
from tzrec_core.mlflow_run import PARENT_TAG
from tzrec_core.tracking import ConsoleLogger, MLflowLogger, TensorBoardLogger, progress_line


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A sqlite store that the tests share, because making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return MlflowClient()


def new_run(client, experiment):
    """Returns the ids of a nested run and its parent."""
    experiment_id = client.create_experiment(experiment)
    parent = client.create_run(experiment_id).info.run_id
    return client.create_run(experiment_id, tags={PARENT_TAG: parent}).info.run_id, parent


def points(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def test_curves_reach_the_run_and_its_parent(client):
    run_ids = new_run(client, "curves")
    logger = MLflowLogger(run_ids[0], prefix="train")
    steps = range(1, 1502)  # more than one request takes
    for step in steps:
        logger.log({"loss/total": 1 / step, "metric/auc": 0.5, "lr/g0": 0.1}, step)
    logger.close()

    for run_id in run_ids:
        assert points(client, run_id, "train/loss_total") == [(s, 1 / s) for s in steps]
        assert len(points(client, run_id, "train/auc")) == len(steps)
        assert points(client, run_id, "train/lr_g0")[-1] == (1501, 0.1)


def test_speed_and_memory_are_in_a_group_of_their_own(client):
    run_id, _ = new_run(client, "system")
    logger = MLflowLogger(run_id, prefix="train")
    system = {"memory/host_gib": 1.0, "samples_per_second": 9.0, "data_wait_share": 0.1}
    logger.log({"loss/total": 0.5, "loss_scale": 2.0, **system}, 1)
    logger.close()

    assert client.get_run(run_id).data.metrics == {
        "train/loss_total": 0.5, "train/loss_scale": 2.0, "system/memory_host_gib": 1.0,
        "system/samples_per_second": 9.0, "system/data_wait_share": 0.1,
    }  # fmt: skip


def test_a_flush_sends_at_once_and_waits_for_nothing(client, monkeypatch):
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 3600.0)
    run_id, _ = new_run(client, "flush")
    logger = MLflowLogger(run_id, prefix="train")
    logger.log({"loss/total": 0.5}, 1)
    logger.flush()
    deadline = time.monotonic() + 60
    while not points(client, run_id, "train/loss_total"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    logger.log({"loss/total": 0.4}, 2)
    logger.close()

    assert points(client, run_id, "train/loss_total") == [(1, 0.5), (2, 0.4)]


def test_of_more_values_than_may_wait_the_oldest_are_lost_and_counted(client, monkeypatch, caplog):
    monkeypatch.setattr(tracking, "_MAX_WAITING", 100)
    monkeypatch.setattr(tracking, "_FLUSH_SECONDS", 3600.0)
    run_id, _ = new_run(client, "bounded")
    logger = MLflowLogger(run_id, prefix="train")
    for step in range(250):
        logger.log({"loss/total": step}, step)
    with caplog.at_level(logging.WARNING):
        logger.close()

    assert points(client, run_id, "train/loss_total") == [(s, s) for s in range(150, 250)]
    assert "150 values did not reach MLflow" in caplog.text


def test_values_arrive_while_the_job_runs(client):
    run_id, _ = new_run(client, "while running")
    logger = MLflowLogger(run_id, prefix="train")
    logger.log({"loss/total": 0.5}, 1)
    deadline = time.monotonic() + 60
    while not points(client, run_id, "train/loss_total"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    logger.close()


def test_steps_that_a_restarted_job_repeats_are_stored_once(client):
    run_ids = new_run(client, "restart")
    for first, last in ((1, 20), (11, 30)):  # killed at 20, restarted from a checkpoint at 10
        logger = MLflowLogger(run_ids[0], prefix="train")
        for step in range(first, last + 1):
            logger.log({"loss/total": float(step)}, step)
        logger.close()

    for run_id in run_ids:
        assert points(client, run_id, "train/loss_total") == [(s, s) for s in range(1, 31)]


def test_values_that_are_not_finite_are_left_out_with_one_warning(client, caplog):
    run_id, _ = new_run(client, "not finite")
    logger = MLflowLogger(run_id, prefix="train")
    with caplog.at_level(logging.WARNING):
        for step, value in enumerate((1.0, math.nan, math.inf, -math.inf, 2.0)):
            logger.log({"loss/total": value}, step)
    logger.close()

    assert points(client, run_id, "train/loss_total") == [(0, 1.0), (4, 2.0)]
    assert [r.getMessage() for r in caplog.records if "finite" in r.getMessage()] == [
        "loss/total is nan at step 1; MLflow gets finite values only"
    ]


def test_a_dead_server_neither_slows_logging_nor_keeps_the_job_from_ending(monkeypatch, caplog):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    with caplog.at_level(logging.WARNING):
        logger = MLflowLogger("0" * 32, prefix="train")
        slowest = 0.0
        for step in range(300):
            started = time.perf_counter()
            logger.log({f"metric/{i}": 0.5 for i in range(10)}, step)
            slowest = max(slowest, time.perf_counter() - started)
            time.sleep(0.01)
        started = time.monotonic()
        logger.close()

    assert slowest < 0.5  # a request would take longer; another process on this machine may not
    assert time.monotonic() - started < 15
    assert [r.getMessage() for r in caplog.records if r.name == tracking.log.name] == [
        "3000 values did not reach MLflow"
    ]
    assert sum("could not be used" in r.getMessage() for r in caplog.records) == 1


@contextmanager
def server(store, port, folder):
    """Runs a real MLflow server until the block ends."""
    command = [
        sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port),
        "--backend-store-uri", store, "--artifacts-destination", str(folder / "artifacts"),
        "--workers", "1",
    ]  # fmt: skip
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    del env["MLFLOW_TRACKING_URI"]
    log = folder / "server.log"
    with log.open("w") as out:
        process = subprocess.Popen(command, env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not healthy(port):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def healthy(port):
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1) as response:
            return response.status == 200
    except OSError:
        return False


def test_a_server_gets_what_was_logged_before_it_could_be_reached_and_after(
    client, store, tmp_path, monkeypatch
):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    run_ids = new_run(client, "away")
    (tmp_path / "model.txt").write_text("model")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{port}")
    logger = MLflowLogger(run_ids[0], prefix="train")
    logger.log({"loss/total": 1.0}, 1)
    time.sleep(3)  # at least one attempt fails
    with server(store, port, tmp_path):
        logger.log({"loss/total": 2.0}, 2)
        logger.close()
        with mlflow_run.track("export", experiment="served", name="export", identity={}) as run:
            run.log_artifact(tmp_path / "model.txt", "export")
        served = MlflowClient().list_artifacts(run.run_id, "export")

    for run_id in run_ids:
        assert points(client, run_id, "train/loss_total") == [(1, 1.0), (2, 2.0)]
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert [file.path for file in served] == ["export/model.txt"]
    assert len(list((tmp_path / "artifacts").rglob("model.txt"))) == 1


def test_tensorboard_gets_every_value_and_hides_steps_of_an_interrupted_job(tmp_path):
    for first, last in ((1, 4), (3, 5)):
        logger = TensorBoardLogger(tmp_path, first_step=first)
        for step in range(first, last + 1):
            logger.log({"loss/total": step / first}, step)
        logger.close()

    events = EventAccumulator(str(tmp_path))
    events.Reload()

    scalars = [(event.step, event.value) for event in events.Scalars("loss/total")]
    assert scalars == [
        (1, 1.0),
        (2, 2.0),
        (3, 1.0),
        (4, pytest.approx(4 / 3)),
        (5, pytest.approx(5 / 3)),
    ]


def test_tensorboard_shows_histograms_and_leaves_out_what_it_is_told_to(tmp_path):
    values = torch.tensor([-3.0, 0.5, 0.5, 2.0])
    logger = TensorBoardLogger(tmp_path, first_step=1, left_out=("loss/", "lr/"))
    logger.log({"loss/total": 0.5, "lr/g0": 0.1, "epoch": 0}, 7)
    logger.log_histogram("parameter/w", histogram(values), 7)
    logger.log_histogram("parameter/nothing", histogram(values[:0]), 7)
    logger.close()

    events = EventAccumulator(str(tmp_path)).Reload()

    assert events.Tags()["scalars"] == ["epoch"]
    assert events.Tags()["histograms"] == ["parameter/w"]
    [event] = events.Histograms("parameter/w")
    shown = event.histogram_value
    assert event.step == 7
    assert (shown.min, shown.max, shown.num, shown.sum, shown.sum_squares) == (-3, 2, 4, 0, 13.5)
    # TensorBoard reads a bin as what lies between the limit before and its own.
    for low, high, count in ((-3.1, -2.9, 1), (0.4, 0.6, 2), (1.9, 2.3, 1)):
        inside = [
            count
            for left, right, count in zip(
                shown.bucket_limit, shown.bucket_limit[1:], shown.bucket[1:], strict=False
            )
            if left < high and right > low
        ]
        assert sum(inside) == count


def test_the_progress_line_has_the_form_that_users_parse():
    line = progress_line(
        {
            "epoch": 0.0, "lr/g0": 1e-6, "lr/g1": 0.001, "samples_per_second": 30123.4,
            "data_wait_share": 0.034, "memory/host_gib": 1.5, "memory/host_peak_gib": 1.923,
            "memory/device_gib": 2.5, "memory/device_peak_gib": 12.346,
            "loss/binary_cross_entropy": 0.584541, "loss/total": 0.584541, "metric/auc": 0.49411,
        },
        title="Training", step=10, last_step=70, rate=2.0,
    )  # fmt: skip

    assert line == (
        "Training Epoch 0: 10it [2.00it/s] 30123 samples/s data_wait:3% memory:1.92GiB"
        " device_memory:12.35GiB lr_g0:1e-06 lr_g1:0.001"
        " binary_cross_entropy:0.58454 total_loss: 0.58454 auc:0.49411 ETA 0:00:30"
    )


def test_the_speed_is_that_since_the_line_before(caplog, monkeypatch):
    clock = iter([100.0, 110.0, 112.0])
    monkeypatch.setattr(tracking.time, "monotonic", lambda: next(clock))
    logger = ConsoleLogger(title="Training", first_step=101, last_step=None)
    with caplog.at_level(logging.INFO):
        logger.log({}, 120)
        logger.log({}, 130)

    assert [r.getMessage() for r in caplog.records] == [
        "Training: 120it [2.00it/s]",
        "Training: 130it [5.00it/s]",
    ]
