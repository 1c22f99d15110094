"""How long a served model takes for a batch."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from tzrec_core.exporting.inputs import Inputs

_WARM_UP_CALLS = 20  # TorchScript compiles what it has seen a few times
_MIN_CALLS, _MAX_CALLS = 20, 2000
_SECONDS = 1.0


@dataclass(frozen=True)
class Latency:
    """The distribution of the times of single calls."""

    batch_size: int
    calls: int
    p50_ms: float
    p99_ms: float


def measure(model: nn.Module, inputs: Mapping[int, Sequence[Inputs]]) -> dict[str, Any]:
    """Measures calls one after the other, about a second for each batch size.

    Encoding is not part of it, and neither is a network.

    Args:
        model: A served model.
        inputs: By the batch size; taken in turn.
    """
    with torch.inference_mode():
        measured = [
            summary(times_of(model, batches), batch_size=size) for size, batches in inputs.items()
        ]
    return {
        "threads": torch.get_num_threads(),
        "batches": [asdict(latency) for latency in measured],
    }


def times_of(model: nn.Module, batches: Sequence[Inputs]) -> list[float]:
    """Returns the seconds of each call, after some that do not count."""
    for call in range(_WARM_UP_CALLS):
        model(*batches[call % len(batches)])
    times: list[float] = []
    stop = time.perf_counter() + _SECONDS
    while len(times) < _MIN_CALLS or (len(times) < _MAX_CALLS and time.perf_counter() < stop):
        batch = batches[len(times) % len(batches)]
        started = time.perf_counter()
        model(*batch)
        times.append(time.perf_counter() - started)
    return times


def summary(seconds: Sequence[float], *, batch_size: int) -> Latency:
    """Returns percentiles: p99 is the smallest time that 99 % of the calls did not exceed."""
    p50, p99 = np.percentile(np.asarray(seconds), [50, 99], method="inverted_cdf") * 1000
    return Latency(batch_size, len(seconds), p50_ms=float(p50), p99_ms=float(p99))
