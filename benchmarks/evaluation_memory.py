"""Time and peak memory of exact metrics of many rows, kept in memory or on disk.

``make bench-evaluation-memory`` makes rows chunk by chunk, as an evaluation would, 20 to a group,
and judges them by auc, xauc, grouped_auc and grouped_xauc; each line is a process of its own. Rows
of the same number are the same rows, so their values must be too.
"""

import argparse
import json
import math
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from tzrec_core.metrics.auc import exact_auc
from tzrec_core.metrics.exchange import mixed
from tzrec_core.metrics.grouped_auc import grouped_auc_sums
from tzrec_core.metrics.grouped_xauc import grouped_xauc_sums
from tzrec_core.metrics.on_disk import auc_on_disk, xauc_on_disk
from tzrec_core.metrics.row_store import (
    GroupFormula,
    JudgedGroups,
    JudgedRows,
    RowFormula,
    RowStore,
)
from tzrec_core.metrics.row_store_on_disk import RowStoreOnDisk
from tzrec_core.metrics.xauc import xauc

BATCH_SIZE = 8192
ROWS_PER_GROUP = 20
OF_ROWS = [
    JudgedRows("auc", RowFormula("auc", exact_auc, auc_on_disk), "probs", "click"),
    JudgedRows("xauc", RowFormula("xauc", xauc, xauc_on_disk), "probs", "seconds"),
]
GROUPED_AUC = GroupFormula("grouped_auc", partial(grouped_auc_sums, weighting="groups"))
GROUPED_XAUC = GroupFormula("grouped_xauc", grouped_xauc_sums)
OF_GROUPS = [
    JudgedGroups("grouped_auc", GROUPED_AUC, "probs", "click", "user"),
    JudgedGroups("grouped_xauc", GROUPED_XAUC, "probs", "seconds", "user"),
]


def main() -> None:
    """Prints one table."""
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--memory_rows", type=int, nargs="*", default=[1_000_000, 10_000_000])
    flags.add_argument(
        "--disk_rows", type=int, nargs="*", default=[1_000_000, 10_000_000, 100_000_000]
    )
    flags.add_argument("--max_rows_in_memory", type=int, default=2**22, help="of --disk_rows")
    flags.add_argument("--one", choices=("memory", "disk"), help=argparse.SUPPRESS)
    args = flags.parse_args()
    if args.one:
        [num_rows] = args.memory_rows
        print(json.dumps(measure(args.one, num_rows, args.max_rows_in_memory)))
        return

    titles = f"{'update s':>9}{'compute s':>10}{'peak GiB':>9}"
    print(f"{'rows':>12}{'groups':>10} {'kept':8}{titles}  values")
    found: dict[int, dict[str, float]] = {}
    runs = [(rows, "memory") for rows in args.memory_rows]
    for num_rows, store in sorted([*runs, *((rows, "disk") for rows in args.disk_rows)]):
        command = [sys.executable, "-m", "benchmarks.evaluation_memory", "--one", store]
        command += ["--memory_rows", str(num_rows)]
        command += ["--max_rows_in_memory", str(args.max_rows_in_memory)]
        result = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        values = found.setdefault(num_rows, result["values"])
        print(
            f"{num_rows:12}{num_rows // ROWS_PER_GROUP:10} {store:8}{result['update']:9.1f}"
            f"{result['compute']:10.1f}{result['peak']:9.2f}  "
            + " ".join(f"{name} {result['values'][name]:.9f}" for name in result["values"]),
            flush=True,
        )
        for name, value in values.items():
            assert math.isclose(result["values"][name], value, abs_tol=1e-12), name
    base = measure("memory", 1000, 1)
    print(f"Of the peak, {base['peak']:.2f} GiB are the program itself.")


def measure(kept: str, num_rows: int, max_rows_in_memory: int) -> dict[str, object]:
    """Judges rows; returns seconds, the peak memory of this process in GiB, and values."""
    with tempfile.TemporaryDirectory() as folder:
        store = (
            RowStore(OF_ROWS, OF_GROUPS)
            if kept == "memory"
            else RowStoreOnDisk(
                OF_ROWS, OF_GROUPS, folder=Path(folder), max_rows_in_memory=max_rows_in_memory
            )
        )
        updating = 0.0
        for batch in batches(num_rows):
            started = time.perf_counter()
            store.update(batch)
            updating += time.perf_counter() - started
        started = time.perf_counter()
        values = store.compute()
        computing = time.perf_counter() - started
    return {
        "update": updating,
        "compute": computing,
        "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "values": {judged.name: values[judged.name] for judged in (*OF_ROWS, *OF_GROUPS)},
    }


def batches(num_rows: int) -> Iterator[dict[str, Tensor]]:
    """Yields rows whose predictions say something about clicks and seconds, in random order."""
    num_groups = max(1, num_rows // ROWS_PER_GROUP)
    for start in range(0, num_rows, BATCH_SIZE):
        size = min(BATCH_SIZE, num_rows - start)
        generator = torch.Generator().manual_seed(start)
        logits = torch.randn(size, generator=generator) - 2
        probs = torch.sigmoid(logits)
        noise = torch.randn(size, generator=generator)
        yield {
            "probs": probs,
            "click": (torch.rand(size, generator=generator) < probs).long(),
            "seconds": torch.exp(logits + noise).round(decimals=2),
            "user": mixed(torch.randint(num_groups, (size,), generator=generator)),
        }


if __name__ == "__main__":
    main()
