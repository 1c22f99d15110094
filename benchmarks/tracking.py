"""What logging to MLflow costs a training, step by step.

``make bench-tracking`` starts a real MLflow server on a free port, and one that does not answer.
Steps of matrix products of about ``--step_ms`` log ``--metrics`` values each, in turns with as many
that do not, so that a busy machine slows both. ``call`` is the time inside ``log``; ``cost`` is how
much longer a step takes, which has the sending thread's share of the interpreter in it. Both are
medians over blocks of steps. A training logs every ``log_step_count_steps`` steps, not in each one.
"""

import argparse
import logging
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median

import torch

from tzrec_core import mlflow_run
from tzrec_core.tracking import MLflowLogger

BLOCK = 50


def main() -> None:
    """Prints one table."""
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--steps", type=int, default=1000, help="with logging, and as many without")
    flags.add_argument("--metrics", type=int, default=10, help="values in each step")
    flags.add_argument("--step_ms", type=float, default=5.0, help="of a step without logging")
    args = flags.parse_args()
    torch.set_num_threads(1)
    logging.getLogger(mlflow_run.log.name).setLevel(logging.ERROR)
    num_products = calibrate(args.step_ms)
    print("server   step ms  call ms  cost ms  values arrived  close s")
    with tempfile.TemporaryDirectory() as folder, server(Path(folder)) as address:
        os.environ["MLFLOW_TRACKING_URI"] = address
        client = mlflow_run.connect()
        run_id = client.create_run(client.create_experiment("bench")).info.run_id
        line = measure("answers", run_id, num_products, args.steps, args.metrics)
        arrived = [
            [point.step for point in client.get_metric_history(run_id, f"train/metric_{index}")]
            for index in range(args.metrics)
        ]
        assert all(steps == sorted(steps) for steps in arrived), "out of order"
        total = sum(map(len, arrived))
        print(line.format(f"{total} of {args.steps * args.metrics}"))
    os.environ["MLFLOW_TRACKING_URI"] = "http://127.0.0.1:9"  # nothing listens there
    print(measure("is down", run_id, num_products, args.steps, args.metrics).format("none"))


def measure(name: str, run_id: str, num_products: int, num_steps: int, num_metrics: int) -> str:
    """Returns a line of the table, with a place for how many values have arrived."""
    logger = MLflowLogger(run_id, prefix="train")
    keys = [f"metric_{index}" for index in range(num_metrics)]
    alone, logged, calls = [], [], []
    step = 0
    for _ in range(num_steps // BLOCK):
        started = time.perf_counter()
        for _ in range(BLOCK):
            work(num_products)
        alone.append((time.perf_counter() - started) / BLOCK)
        in_log = 0.0
        started = time.perf_counter()
        for _ in range(BLOCK):
            work(num_products)
            called = time.perf_counter()
            logger.log({key: float(step) for key in keys}, step)
            in_log += time.perf_counter() - called
            step += 1
        logged.append((time.perf_counter() - started) / BLOCK)
        calls.append(in_log / BLOCK)
    cost = median(with_it - without for with_it, without in zip(logged, alone, strict=True))
    started = time.perf_counter()
    logger.close()
    closed = time.perf_counter() - started
    times = f"{1e3 * median(alone):7.2f}  {1e3 * median(calls):7.3f}  {1e3 * cost:7.3f}"
    return f"{name}  {times}  {{:>14}}  {closed:7.1f}"


def calibrate(step_ms: float) -> int:
    """Returns how many products take about that long."""
    work(100)
    started = time.perf_counter()
    work(1000)
    return max(1, round(step_ms / (time.perf_counter() - started)))


def work(num_products: int) -> None:
    """Computes as a step does: mostly outside the interpreter."""
    matrix = torch.ones(128, 128)
    for _ in range(num_products):
        matrix @ matrix


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """Runs an MLflow server in a process group of its own until the block ends."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        *(sys.executable, "-m", "mlflow", "server", "--host=127.0.0.1", f"--port={port}"),
        *("--workers=1", f"--backend-store-uri=sqlite:///{folder / 'mlflow.db'}"),
        f"--artifacts-destination={folder / 'artifacts'}",
    ]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    with (folder / "server.log").open("w") as log:
        process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    address = f"http://127.0.0.1:{port}"
    try:
        while not answers(address):
            if process.poll() is not None:
                raise RuntimeError((folder / "server.log").read_text())
            time.sleep(0.5)
        yield address
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def answers(address: str) -> bool:
    """Returns whether a server is ready."""
    try:
        with urllib.request.urlopen(f"{address}/health", timeout=1) as response:
            return bool(response.status == 200)
    except OSError:
        return False


if __name__ == "__main__":
    main()
