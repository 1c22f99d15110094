"""What single operators take of a training, and how fast matrices could be multiplied."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from tzrec_core.modules.linear import Linear

_WAITING = "wait for the next batch"


class Share(NamedTuple):
    """An operator's part of the time that all operators take themselves."""

    name: str
    share: float
    calls: int


def multiply(device: torch.device, dtype: torch.dtype) -> float:
    """Multiplies square matrices of a size that suits the device; returns the operations.

    With the library that training multiplies with.
    """
    size, times = (8192, 20) if device.type == "cuda" else (2048, 8)
    layer = Linear(size, size, bias=False, device=device, dtype=dtype)
    rows = torch.ones(size, size, device=device, dtype=dtype)
    with torch.no_grad():
        for _ in range(times):
            layer(rows)
    return times * 2.0 * size**3


def profiled(run: Callable[[], int]) -> tuple[int, list[Share]]:
    """Returns what ``run`` returns, and all operators, the most expensive first."""
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)
    with profile(activities=activities) as profiler:
        result = run()
    times = {}
    for event in profiler.key_averages():
        on_device = torch.cuda.is_available()
        if on_device == (event.device_type == DeviceType.CUDA) and event.key != _WAITING:
            time = event.self_device_time_total if on_device else event.self_cpu_time_total
            times[event.key] = time, event.count
    total = sum(time for time, _ in times.values())
    shares = [Share(name, time / total, count) for name, (time, count) in times.items()]
    return result, sorted(shares, key=lambda share: -share.share)
