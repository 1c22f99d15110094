"""How much memory this process takes."""

from pathlib import Path

import torch

_GIB = 2**30


def memory_in_use(
    device: torch.device, *, status: Path = Path("/proc/self/status")
) -> dict[str, float]:
    """Returns GiB by name: ``host_gib`` and ``host_peak_gib``, likewise ``device`` of a GPU.

    On the host it is what is resident, on a GPU what tensors take; the peak is that of the process.
    ``status`` is what the kernel says about this process.
    """
    lines = dict(line.split(":", 1) for line in status.read_text().splitlines())
    values = {
        "host_gib": int(lines["VmRSS"].split()[0]) * 1024 / _GIB,
        "host_peak_gib": int(lines["VmHWM"].split()[0]) * 1024 / _GIB,
    }
    if device.type == "cuda":
        values["device_gib"] = torch.cuda.memory_allocated(device) / _GIB
        values["device_peak_gib"] = torch.cuda.max_memory_allocated(device) / _GIB
    return values
