"""How fast a training is, what its parts take, and how that compares with one written by hand.

``make bench-train`` trains DeepFM on 13 numbers and 26 ids a row: the model alone on batches in
memory, the loader alone, real training with one rank and with two, and a loop written by hand with
TorchRec and torch alone. All sides are processes that take turns, round by round, so that a
machine's mood meets them alike: ratios are medians of those within a round. CPU-s per M are seconds
of all threads for a million samples; the peak is that of the process, and of both with two ranks.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.train import growth
from benchmarks.train.processes import Order, Workers
from benchmarks.train.report import (
    CONTROL,
    GEMM,
    LOADER,
    MODEL,
    TRAINING,
    Rounds,
    Setting,
    print_gemm,
    print_rounds,
    print_shares,
    print_targets,
    targets,
)
from benchmarks.train.workers import control, product
from benchmarks.train.workload import NUM_SPARSE, make_config, write_rows
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig

TWO_RANKS = "training from Parquet, 2 ranks"


def main(argv: Sequence[str] | None = None) -> None:
    """Prints the tables, and which targets are met."""
    on_gpu = torch.cuda.is_available()
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--rows", type=int, default=2**17, help="of a round")
    flags.add_argument("--rounds", type=int, default=3)
    flags.add_argument("--batch_sizes", type=int, nargs="+", default=[8192, 2048])
    flags.add_argument(
        "--precisions",
        nargs="+",
        choices=["fp32", "tf32", "bf16"],
        default=["fp32", "tf32", "bf16"] if on_gpu else ["fp32", "bf16"],
    )
    flags.add_argument("--threads", type=int, default=0, help="of operators; 0: the default")
    flags.add_argument("--table_rows", type=int, default=10**6)
    flags.add_argument("--hidden_units", type=int, nargs="+", default=[512, 256, 128])
    flags.add_argument("--growth_rows", type=int, nargs="*", default=[10**5, 10**6, 10**7])
    flags.add_argument("--growth_tables", type=int, nargs="*", default=[10**4, 10**5, 10**6, 10**7])
    args = flags.parse_args(argv)

    print(f"load average {os.getloadavg()[0]:.1f}, {args.rows:,} rows a round", flush=True)
    settings = [
        Setting(batch_size, precision)
        for batch_size in args.batch_sizes
        for precision in args.precisions
    ]
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rows"
        tables = [args.table_rows] * NUM_SPARSE
        config = make_config(data, tables, args.hidden_units)
        write_rows(config, data, args.rows)
        measure(config, tables, settings, rounds=args.rounds, threads=args.threads)
    largest = max(args.batch_sizes)
    if args.growth_rows:
        growth.show_rows(args.growth_rows, batch_size=largest, threads=args.threads)
    if args.growth_tables:
        growth.show_tables(
            args.growth_tables,
            args.hidden_units,
            rows=args.rows,
            batch_size=largest,
            threads=args.threads,
        )
    print(f"\nload average {os.getloadavg()[0]:.1f}")


def measure(
    config: EasyRecConfig,
    tables: Sequence[int],
    settings: Sequence[Setting],
    *,
    rounds: int,
    threads: int,
) -> None:
    """Compares all sides in all settings."""
    with Workers(product, config, world_size=1) as one:
        facts = one.describe()
        threads = threads or facts["threads"]
        print(f"{facts['device']}, {threads} thread(s) for operators of one rank", flush=True)
        with Workers(control, config, tables, world_size=1) as hand:
            found = {
                setting: compare(one, hand, setting, rounds=rounds, threads=threads)
                for setting in settings
            }
            for setting in settings:
                if setting.batch_size == settings[0].batch_size:
                    show_shares(one, hand, setting, threads)
        if facts["device"] == "cuda" and torch.cuda.device_count() < 2:
            print("\ntwo ranks need two GPUs, this machine has one")
        else:
            with Workers(product, config, world_size=2) as two:
                for setting in settings:
                    compare_ranks(one, two, setting, rounds=rounds, threads=threads)
    print_targets(targets(found))


def compare(one: Workers, hand: Workers, setting: Setting, *, rounds: int, threads: int) -> Rounds:
    """Takes turns between the sides of one rank, and prints what they take."""
    found = Rounds()
    orders = _orders(setting, threads, "warm up", "gemm", "model", "loader", "training", "control")
    for workers in (one, hand):
        workers.run(orders["warm up"])
    for _ in range(rounds):
        found.add(GEMM, one.run(orders["gemm"]))
        found.add(MODEL, one.run(orders["model"]))
        found.add(LOADER, one.run(orders["loader"]))
        found.add(TRAINING, one.run(orders["training"]))
        found.add(CONTROL, hand.run(orders["control"]))
    print_rounds(f"batch {setting.batch_size}, {setting.precision}", found, base=MODEL)
    print_gemm(found, one.describe()["flops"])
    return found


def compare_ranks(
    one: Workers, two: Workers, setting: Setting, *, rounds: int, threads: int
) -> None:
    """Takes turns between training with one rank and with two, which share the threads."""
    found = Rounds()
    of_one = _orders(setting, threads, "warm up", "training")
    of_two = _orders(setting, max(1, threads // 2), "warm up", "training")
    one.run(of_one["warm up"])
    two.run(of_two["warm up"])
    for _ in range(rounds):
        found.add(TRAINING, one.run(of_one["training"]))
        found.add(TWO_RANKS, two.run(of_two["training"]))
    title = f"{setting.batch_size} rows a rank, {setting.precision}"
    print_rounds(title, found, base=TRAINING)


def show_shares(one: Workers, hand: Workers, setting: Setting, threads: int) -> None:
    """Prints the operators of training and of the control."""
    order = _orders(setting, threads, "profile")["profile"]
    for name, workers in ((TRAINING, one), (CONTROL, hand)):
        workers.run(order)
        print_shares(
            f"{name}, {setting.batch_size}, {setting.precision}", workers.describe()["shares"]
        )


def _orders(setting: Setting, threads: int, *names: str) -> dict[str, Order]:
    return {name: Order(name, setting.batch_size, setting.precision, threads) for name in names}


if __name__ == "__main__":
    main()
