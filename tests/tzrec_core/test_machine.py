"""The smaller of the machine's and the container's limits counts."""

import os
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tzrec_core.machine import available_cpus, available_memory, cpu_vendor

MIB = 2**20


def write(folder, files: dict[str, str]):
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content + "\n")
    return folder


def test_without_a_container_memory_is_what_the_machine_has_free(tmp_path):
    free = psutil.virtual_memory().available

    assert available_memory(tmp_path) == pytest.approx(free, rel=0.2)


VERSION_2 = {
    "memory.max": str(100 * MIB),
    "memory.current": str(70 * MIB),
    "memory.stat": f"anon {40 * MIB}\ninactive_file {20 * MIB}",
}
VERSION_1 = {
    "memory/memory.limit_in_bytes": str(100 * MIB),
    "memory/memory.usage_in_bytes": str(70 * MIB),
    "memory/memory.stat": f"inactive_file 1\ntotal_inactive_file {20 * MIB}",
}


@pytest.mark.parametrize("files", [VERSION_2, VERSION_1], ids=["version 2", "version 1"])
def test_a_containers_limit_less_what_it_uses_counts_but_not_its_page_cache(tmp_path, files):
    assert available_memory(write(tmp_path, files)) == 50 * MIB


def test_a_container_over_its_limit_has_no_memory_left(tmp_path):
    full = {**VERSION_2, "memory.current": str(200 * MIB)}

    assert available_memory(write(tmp_path, full)) == 0


def test_a_container_without_limits_has_the_machines(tmp_path):
    write(tmp_path, {"memory.max": "max", "cpu.max": "max 100000"})

    assert available_memory(tmp_path) > 100 * MIB
    assert available_cpus(tmp_path) == len(os.sched_getaffinity(0))


@pytest.mark.parametrize(
    "files",
    [
        {"cpu.max": "150000 100000"},
        {"cpu/cpu.cfs_quota_us": "150000", "cpu/cpu.cfs_period_us": "100000"},
        {"cpu.max": "20000 100000"},
    ],
    ids=["version 2", "version 1", "less than one core"],
)
def test_a_quota_of_cpu_time_is_rounded_down_to_cores_but_to_no_less_than_one(tmp_path, files):
    assert available_cpus(write(tmp_path, files)) == 1


def test_no_quota_in_version_1_is_written_as_minus_one(tmp_path):
    files = {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}

    assert available_cpus(write(tmp_path, files)) == len(os.sched_getaffinity(0))


def test_memory_that_is_freed_serves_what_is_allocated_next():
    # In a process of its own, whose allocator nothing else has set.
    script = """
import resource
import numpy
from tzrec_core.machine import keep_freed_memory

keep_freed_memory()
for _ in range(5):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    blocks = [numpy.ones(2**22) for _ in range(4)]  # 32 MiB each
    del blocks
    print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    command = [sys.executable, "-c", script]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    first, *later = map(int, output.split())

    assert max(later) < first / 10


def test_the_vendor_is_that_of_the_first_processor_if_the_kernel_names_one(tmp_path):
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nvendor_id\t: AuthenticAMD\nmodel name\t: AMD EPYC\n")

    assert cpu_vendor(cpuinfo) == "AuthenticAMD"
    cpuinfo.write_text("processor\t: 0\nCPU implementer\t: 0x41\n")
    assert cpu_vendor(cpuinfo) == ""
    assert cpu_vendor(tmp_path / "none") == ""


HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not HUGE_PAGES.exists() or "[never]" in HUGE_PAGES.read_text(),
    reason="this kernel gives nobody huge pages",
)
def test_large_tensors_are_in_huge_pages_also_after_torchrec_is_imported():
    script = """
import tzrec_core, torchrec, torch
table = torch.zeros(50_000_000)
kib = [line.split()[1] for line in open("/proc/self/smaps") if line.startswith("AnonHugePages")]
print(sum(map(int, kib)) * 1024 / table.nbytes)
"""
    shown = subprocess.run(
        [sys.executable, "-c", script], text=True, capture_output=True, check=True
    )

    assert float(shown.stdout) > 0.9
