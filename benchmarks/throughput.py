"""Samples per second of training and of its parts, in one process, as ratios.

``make bench`` prepares click logs once, then takes turns between reading batches, training on
batches in memory, and training from Parquet, so that a machine's mood meets all three alike.
"""

import argparse
import itertools
import resource
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

from tzrec_core.assembly import assemble, share_of_rows
from tzrec_core.batch import Batch
from tzrec_core.config import edit, load
from tzrec_core.data import synthetic
from tzrec_core.data.collate import empty_batch
from tzrec_core.data.prepare import prepare
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.ranks import process_group
from tzrec_core.distributed.train_pipeline import train_pipeline
from tzrec_core.features.build import encoded_edits
from tzrec_core.tasks import loss_weights

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "demo.config"


def main() -> None:
    """Prints one table."""
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--rows", type=int, default=400_000)
    flags.add_argument("--batch_size", type=int, default=2048)
    flags.add_argument("--rounds", type=int, default=3)
    args = flags.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), rows=args.rows, batch_size=args.batch_size, rounds=args.rounds)


def measure(folder: Path, *, rows: int, batch_size: int, rounds: int) -> None:
    """Generates, prepares, then measures."""
    config = load(CONFIG)
    generating = _clock(
        lambda: synthetic.write(
            folder / "raw", rows=rows, eval_rows=1000, seed=0, file_format="parquet", num_workers=1
        )
    )
    preparing = _clock(
        lambda: prepare(
            config,
            train_input_path=str(folder / "raw" / "train"),
            eval_input_path=str(folder / "raw" / "eval"),
            output_dir=folder / "data",
            eval_fraction=0.1,
            split_by="rows",
            seed=0,
            progress=lambda line: None,
        )
    )
    config.train_input_path = str(next((folder / "data").glob("*/train")))
    edit(
        config,
        {
            **encoded_edits(config),
            "data_config.batch_size": batch_size,
            "data_config.num_workers": 1,
        },
    )

    with process_group() as ranks:
        job = assemble(config, ranks)
        data = share_of_rows(config, job.schema, ranks, training=True)
        pipeline = train_pipeline(job.model, job.optimizer, ranks)
        in_memory = list(itertools.islice(data.batches(0), 40))

        def train(batches: Iterable[Batch]) -> int:
            empty = empty_batch(job.schema)
            weigh = partial(loss_weights, job.tasks)
            agreed = agree(iter(batches), ranks, weigh=weigh, drop_remainder=False, empty=empty)
            num_rows = 0
            while True:
                try:
                    num_rows += len(pipeline.progress(agreed)[2])
                except StopIteration:
                    return num_rows

        runs: dict[str, Callable[[], int]] = {
            "model alone, batches in memory": lambda: train(in_memory),
            "loader alone, from Parquet": lambda: sum(map(len, data.batches(0))),
            "training from Parquet": lambda: train(data.batches(0)),
        }
        train(in_memory[:3])  # the first steps allocate
        wall = dict.fromkeys(runs, 0.0)
        cpu = dict.fromkeys(runs, 0.0)
        counts = dict.fromkeys(runs, 0)
        for _ in range(rounds):
            for name, run in runs.items():
                started = time.perf_counter(), time.process_time()
                counts[name] += run()
                wall[name] += time.perf_counter() - started[0]
                cpu[name] += time.process_time() - started[1]

    print(f"{rows} rows, batch {batch_size}, {rounds} rounds")
    print(f"generate {rows / generating:10.0f} rows/s   prepare {rows / preparing:10.0f} rows/s")
    base = counts["model alone, batches in memory"] / wall["model alone, batches in memory"]
    print(f"{'':34}{'samples/s':>12}{'ratio':>8}{'CPU-s per M':>14}")
    for name in runs:
        rate = counts[name] / wall[name]
        per_million = cpu[name] / counts[name] * 1e6
        print(f"{name:34}{rate:12.0f}{rate / base:8.2f}{per_million:14.1f}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"peak memory {peak:.2f} GiB")


def _clock(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
