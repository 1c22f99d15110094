"""What this machine, or the container around this process, has to offer."""

import ctypes
import os
from pathlib import Path

import psutil

# As glibc's malloc.h numbers them.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3


def available_memory(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns the bytes that new data may take: what the machine has free, or its container.

    ``cgroup`` is the mount point of the control groups (version 2, else version 1). A container
    sees its own limit there; page cache that the kernel would give up counts as free.
    """
    available = int(psutil.virtual_memory().available)
    for limit_file, usage_file, stat_file, cache_key in (
        ("memory.max", "memory.current", "memory.stat", "inactive_file"),
        (
            "memory/memory.limit_in_bytes",
            "memory/memory.usage_in_bytes",
            "memory/memory.stat",
            "total_inactive_file",
        ),
    ):
        limit = cgroup / limit_file
        if limit.is_file() and (text := limit.read_text().strip()) != "max":
            stat = dict(line.split() for line in (cgroup / stat_file).read_text().splitlines())
            used = int((cgroup / usage_file).read_text()) - int(stat[cache_key])
            available = min(available, int(text) - used)
    return max(available, 0)


def available_cpus(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Returns how many cores this process may keep busy, at least 1.

    The cores it is allowed to run on, or the container's CPU quota where that is less.
    """
    cpus = len(os.sched_getaffinity(0))
    version_2 = cgroup / "cpu.max"
    version_1 = cgroup / "cpu" / "cpu.cfs_quota_us"
    if version_2.is_file():
        quota, period = version_2.read_text().split()
    elif version_1.is_file():
        quota = version_1.read_text().strip()
        period = (cgroup / "cpu" / "cpu.cfs_period_us").read_text()
    else:
        return cpus
    if quota in ("max", "-1"):
        return cpus
    return max(1, min(cpus, int(quota) // int(period)))


def cpu_vendor(cpuinfo: Path = Path("/proc/cpuinfo")) -> str:
    """Returns what an x86 processor says of its maker, ``GenuineIntel`` for example; else nothing.

    ``cpuinfo`` is what the kernel says about the processors.
    """
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    vendors = [line.partition(":")[2].strip() for line in lines if line.startswith("vendor_id")]
    return vendors[0] if vendors else ""


def keep_freed_memory() -> None:
    """Lets this process keep memory that it frees, up to a GiB, for what it allocates next.

    By default the C library gives a batch's tensors back to the kernel, which has to clear the same
    pages for the next batch. Blocks of more than 256 MiB are still given back. Only glibc can be
    told; with another C library nothing changes.
    """
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "mallopt"):
        return
    # Both, since setting one alone ends glibc's adapting of the other: see mallopt(3).
    libc.mallopt(_M_MMAP_THRESHOLD, 2**28)
    libc.mallopt(_M_TRIM_THRESHOLD, 2**30)
