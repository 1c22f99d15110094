"""How speed and memory grow with the rows to train on, and with the rows of tables."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.train.processes import Order, Outcome, Workers
from benchmarks.train.workers import product
from benchmarks.train.workload import NUM_SPARSE, make_config, repeat_rows, write_rows

SMALL_TABLE = 10_000
SMALL_NETWORK = (64, 32)
NUM_LARGE = 4
"""Tables that grow: all of them, with ten million rows each, take more memory than most have."""

_TITLES = f"{'samples/s':>11}{'CPU-s per M':>13}{'peak GiB':>10}"


def show_rows(sizes: Sequence[int], *, batch_size: int, threads: int) -> None:
    """Prints what an epoch of so many rows takes; small tables and network, to see the rest.

    Larger inputs are the rows of the smallest again and again.
    """
    print(f"\n{'rows, training with small tables':32}{_TITLES}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tables = [SMALL_TABLE] * NUM_SPARSE
        write_rows(make_config(folder, tables, SMALL_NETWORK), folder / "rows", min(sizes))
        for size in sizes:
            data = folder / str(size)
            repeat_rows(folder / "rows", data, size // min(sizes))
            config = make_config(data, tables, SMALL_NETWORK)
            with Workers(product, config, world_size=1) as one:
                outcome = one.run(Order("training", batch_size, "fp32", threads))
            print(f"{outcome.work:32,.0f}{_numbers(outcome)}", flush=True)


def show_tables(
    sizes: Sequence[int], hidden_units: Sequence[int], *, rows: int, batch_size: int, threads: int
) -> None:
    """Prints what the model takes when some of its tables have so many rows."""
    print(f"\n{f'rows of {NUM_LARGE} tables, model alone':32}{_TITLES}{'built in s':>12}")
    for size in sizes:
        tables = [size] * NUM_LARGE + [SMALL_TABLE] * (NUM_SPARSE - NUM_LARGE)
        with tempfile.TemporaryDirectory() as folder:
            data = Path(folder) / "rows"
            config = make_config(data, tables, hidden_units)
            write_rows(config, data, rows)
            started = time.perf_counter()
            with Workers(product, config, world_size=1) as one:
                one.run(Order("warm up", batch_size, "fp32", threads))
                built = time.perf_counter() - started
                outcome = one.run(Order("model", batch_size, "fp32", threads))
        print(f"{size:32,}{_numbers(outcome)}{built:12.1f}", flush=True)


def _numbers(outcome: Outcome) -> str:
    rate, cpu = outcome.work / outcome.wall, outcome.cpu / outcome.work * 1e6
    return f"{rate:11,.0f}{cpu:13.2f}{outcome.peak_gib:10.2f}"
