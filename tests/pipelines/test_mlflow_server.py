"""A local MLflow store, served while containers run."""

import signal
import socket
import subprocess
import sys
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest
from mlflow import MlflowClient

from pipelines.local import mlflow_server


def test_a_store_is_served_until_the_process_that_serves_it_is_gone(tmp_path):
    store = f"sqlite:///{tmp_path}/mlflow.db"
    program = (
        "import sys\nfrom pipelines.local import mlflow_server\n"
        "with mlflow_server.served(sys.argv[1]) as address:\n"
        "    print(address, flush=True)\n    sys.stdin.read()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program, store],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    address = process.stdout.readline().strip()
    with urllib.request.urlopen(f"{address}/health") as answer:
        assert answer.status == 200
    place = MlflowClient(address).get_experiment(MlflowClient(address).create_experiment("x"))
    # Where a run without a server would have its files, too.
    assert place.artifact_location.startswith(f"file://{tmp_path}/mlartifacts")
    process.send_signal(signal.SIGKILL)
    process.communicate()

    # The port is free again: only then can a second server have it.
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/health", timeout=1)
        except OSError:
            break
        signal.sigtimedwait([], 0.1)
    else:
        pytest.fail("the server goes on")


def test_two_runs_that_start_at_once_have_a_server_each(tmp_path, monkeypatch):
    with socket.socket() as free:  # both find it free, and one of them is too late
        free.bind(("127.0.0.1", 0))
        monkeypatch.setattr(mlflow_server, "_USUAL_PORT", free.getsockname()[1])
    monkeypatch.setenv("MLFLOW_SERVER_ALLOWED_HOSTS", "mlflow.example")  # of a server elsewhere
    stores = [f"sqlite:///{tmp_path}/{name}.db" for name in ("one", "other")]

    with ExitStack() as stack, ThreadPoolExecutor() as threads:
        starting = [mlflow_server.served(store) for store in stores]
        addresses = list(threads.map(stack.enter_context, starting))
        for store, address in zip(stores, addresses, strict=True):
            MlflowClient(address).create_experiment(store)

    assert len(set(addresses)) == 2
    for store in stores:
        known = {experiment.name for experiment in MlflowClient(store).search_experiments()}
        assert known == {"Default", store}


def test_a_store_that_cannot_be_served_is_an_error_with_the_servers_reason(tmp_path):
    (tmp_path / "mlflow.db").write_text("this is no database")

    with (
        pytest.raises(ValueError, match=r"no MLflow server can be started for sqlite:///.*: "),
        mlflow_server.served(f"sqlite:///{tmp_path}/mlflow.db"),
    ):
        pass
