"""Where the numbers of a running job go: the console, TensorBoard, MLflow.

The keys are ``loss/total``, ``loss/<name>``, ``lr/<group>``, ``loss_scale``, ``metric/<name>``,
``pareto_weight/<tower>``, ``memory/<device>_gib``, ``memory/<device>_peak_gib``, ``epoch``,
``samples_per_second`` and ``data_wait_share`` while training, the metrics' own names while
evaluating.
"""

import logging
import math
import os
import threading
import time
from collections import deque
from collections.abc import Mapping
from datetime import timedelta
from typing import TYPE_CHECKING, NamedTuple, Protocol

from tzrec_core import mlflow_run
from tzrec_core.histogram import LIMITS, Histogram

if TYPE_CHECKING:
    from mlflow import MlflowClient

log = logging.getLogger(__name__)

_FLUSH_SECONDS = 2.0
_MAX_PAUSE_SECONDS = 60.0  # between attempts while MLflow does not answer
_CLOSE_SECONDS = 30.0
_MAX_WAITING = 200_000
_MAX_PER_REQUEST = 1000  # MLflow's limit
_SYSTEM = "system"
_OF_SYSTEM = ("memory/", "samples_per_second", "data_wait_share")


class MetricLogger(Protocol):
    """Takes the numbers of one step; one instance on rank 0 for each place they go to."""

    def log(self, metrics: Mapping[str, float], step: int) -> None: ...

    def flush(self) -> None:
        """Begins to hand over what is still buffered, without waiting for it."""

    def close(self) -> None:
        """Hands over what is still buffered."""


class ConsoleLogger:
    """Writes one line per call: speed, learning rates, losses, metrics, and the time left."""

    def __init__(self, *, title: str, first_step: int, last_step: int | None) -> None:
        """Starts the clock of the first line.

        Args:
            title: what the line begins with, "Training".
            first_step: the step that is about to run.
            last_step: the step the job ends with, if that is known.
        """
        self._title = title
        self._last_step = last_step
        self._previous_step = first_step - 1
        self._previous_time = time.monotonic()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        now = time.monotonic()
        rate = (step - self._previous_step) / max(now - self._previous_time, 1e-9)
        self._previous_step, self._previous_time = step, now
        line = progress_line(
            metrics, title=self._title, step=step, last_step=self._last_step, rate=rate
        )
        log.info("%s", line)

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


class TensorBoardLogger:
    """Writes values and histograms under their keys into an event file."""

    def __init__(
        self,
        log_dir: str | os.PathLike[str],
        *,
        first_step: int,
        left_out: tuple[str, ...] = (),
    ) -> None:
        """Opens a new event file.

        Args:
            log_dir: folder of the event files.
            first_step: TensorBoard hides what an earlier, interrupted job wrote from here on.
            left_out: what the keys of values begin with that are not to be written.
        """
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(os.fspath(log_dir), purge_step=first_step)
        self._left_out = left_out

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        for key, value in metrics.items():
            if not key.startswith(self._left_out):
                self._writer.add_scalar(key, value, step)

    def log_histogram(self, key: str, histogram: Histogram, step: int) -> None:
        """Writes the bins from the first to the last that has elements; nothing of no elements."""
        used = histogram.counts.nonzero().flatten()
        if len(used) == 0:
            return
        # An empty bin on the left shows where the first one begins.
        bins = slice(max(int(used[0]) - 1, 0), int(used[-1]) + 1)
        total, squares = histogram.moments.tolist()
        smallest, negative_largest = histogram.extremes.tolist()
        self._writer.add_histogram_raw(
            key,
            min=smallest,
            max=-negative_largest,
            num=int(histogram.counts.sum()),
            sum=total,
            sum_squares=squares,
            bucket_limits=LIMITS[bins].tolist(),
            bucket_counts=histogram.counts[bins].tolist(),
            global_step=step,
        )

    def flush(self) -> None:
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


class _Point(NamedTuple):
    name: str
    value: float
    timestamp: int
    step: int


class MLflowLogger:
    """Sends values to a run and its parent, from a thread that never keeps the job waiting.

    While MLflow does not answer the values wait, up to a limit, above which the oldest are lost,
    and are tried again ever more rarely. A value of a step that the run has already, from before a
    restart, is not sent again.
    """

    def __init__(self, run_id: str, *, prefix: str) -> None:
        """Starts the sending thread.

        Args:
            run_id: a run of the store that MLflow's environment variables name.
            prefix: goes before every name, "train" or "eval", but those of speed and memory,
                which get "system".
        """
        self._run_id = run_id
        self._prefix = prefix
        self._waiting: deque[_Point] = deque(maxlen=_MAX_WAITING)
        self._batch: list[_Point] = []
        self._not_finite: set[str] = set()
        self._num_lost = 0
        self._closing = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._send_all, name="mlflow", daemon=True)
        self._thread.start()

    def log(self, metrics: Mapping[str, float], step: int) -> None:
        now = int(time.time() * 1000)
        for key, value in metrics.items():
            if math.isfinite(value):
                prefix = _SYSTEM if key.startswith(_OF_SYSTEM) else self._prefix
                name = mlflow_run.metric_name(prefix, key)
                self._num_lost += len(self._waiting) == _MAX_WAITING
                self._waiting.append(_Point(name, float(value), now, step))
            elif key not in self._not_finite:
                self._not_finite.add(key)
                log.warning("%s is %s at step %d; MLflow gets finite values only", key, value, step)

    def flush(self) -> None:
        self._wake.set()

    def close(self) -> None:
        """Sends what is left, for a limited time."""
        self._closing = True
        self._wake.set()
        self._thread.join(_CLOSE_SECONDS)
        if num_left := self._num_lost + len(self._batch) + len(self._waiting):
            log.warning("%d values did not reach MLflow", num_left)

    def _send_all(self) -> None:
        sender: _Sender | None = None
        pause, warned, closing = _FLUSH_SECONDS, False, False
        while not closing:
            self._wake.wait(pause)
            self._wake.clear()
            closing = self._closing
            try:
                sender = sender or _Sender(self._run_id)
                while self._next_batch():
                    sender.send(self._batch)
                    self._batch.clear()
                pause = _FLUSH_SECONDS
            # Whatever the store, its driver or the network raises: training does not fail for it.
            except Exception as error:
                pause = min(2 * pause, _MAX_PAUSE_SECONDS)
                if not warned:
                    mlflow_run.warn_unavailable(error)
                    warned = True

    def _next_batch(self) -> bool:
        """Fills the batch, which still holds its points if sending them failed before."""
        while self._waiting and len(self._batch) < _MAX_PER_REQUEST:
            self._batch.append(self._waiting.popleft())
        return bool(self._batch)


class _Sender:
    """Sends points to a run and its parent, to each at most once per name and step."""

    def __init__(self, run_id: str) -> None:
        self._client: MlflowClient = mlflow_run.connect()
        self._run_ids = mlflow_run.run_and_parent(self._client, run_id)
        self._sent: dict[tuple[str, str], set[int]] = {}

    def send(self, points: list[_Point]) -> None:
        from mlflow.entities import Metric

        for run_id in self._run_ids:
            new = [point for point in points if point.step not in self._steps(run_id, point.name)]
            self._client.log_batch(run_id, metrics=[Metric(*point) for point in new])
            for point in new:
                self._steps(run_id, point.name).add(point.step)

    def _steps(self, run_id: str, name: str) -> set[int]:
        key = (run_id, name)
        if key not in self._sent:
            self._sent[key] = set(mlflow_run.logged_steps(self._client, run_id, name))
        return self._sent[key]


def progress_line(
    metrics: Mapping[str, float], *, title: str, step: int, last_step: int | None, rate: float
) -> str:
    """Returns the console's line for one step.

    >>> progress_line({"epoch": 0, "loss/total": 0.5}, title="Training", step=10, last_step=30,
    ...               rate=2.0)
    'Training Epoch 0: 10it [2.00it/s] total_loss: 0.50000 ETA 0:00:10'
    """
    epoch = f" Epoch {metrics['epoch']:.0f}" if "epoch" in metrics else ""
    head = [f"{title}{epoch}: {step}it [{rate:.2f}it/s]"]
    values = []
    for key, value in metrics.items():
        match key.split("/", 1):
            case ["epoch"] | ["memory", "host_gib" | "device_gib"]:
                continue
            case ["samples_per_second"]:
                head.append(f"{value:.0f} samples/s")
            case ["data_wait_share"]:
                head.append(f"data_wait:{value:.0%}")
            case ["memory", "host_peak_gib"]:
                head.append(f"memory:{value:.2f}GiB")
            case ["memory", "device_peak_gib"]:
                head.append(f"device_memory:{value:.2f}GiB")
            case ["loss", "total"]:
                values.append(f"total_loss: {value:.5f}")
            case ["lr", group]:
                values.append(f"lr_{group}:{value:.5g}")
            case ["loss" | "metric", name]:
                values.append(f"{name}:{value:.5f}")
            case _:
                values.append(f"{key}:{value:.5f}")
    if last_step is not None and rate > 0:
        values.append(f"ETA {timedelta(seconds=round((last_step - step) / rate))}")
    return " ".join(head + values)
