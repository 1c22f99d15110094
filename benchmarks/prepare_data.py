"""Rows per second of making click logs and of preparing them for training.

``make bench-prepare`` writes the demo's click logs as Parquet, and has ``prepare_data`` check,
split, encode and shuffle them.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from tzrec_core.config import load
from tzrec_core.data import synthetic
from tzrec_core.data.prepare import prepare

CONFIG = Path(__file__).parents[1] / "pipelines" / "configs" / "demo.config"


def main() -> None:
    """Prints two lines."""
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--rows", type=int, default=400_000)
    rows = flags.parse_args().rows
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        report("generate", rows, lambda: generate(folder, rows))
        report("prepare", rows, lambda: prepare_rows(folder))


def generate(folder: Path, rows: int) -> None:
    """Writes click logs."""
    synthetic.write(
        folder / "raw", rows=rows, eval_rows=1000, seed=0, file_format="parquet", num_workers=1
    )


def prepare_rows(folder: Path) -> None:
    """Makes of them what a training reads."""
    prepare(
        load(CONFIG),
        train_input_path=str(folder / "raw" / "train"),
        eval_input_path=str(folder / "raw" / "eval"),
        output_dir=folder / "data",
        eval_fraction=0.1,
        split_by="rows",
        seed=0,
        progress=lambda line: None,
    )


def report(name: str, rows: int, action: Callable[[], None]) -> None:
    """Prints how fast an action is."""
    wall, cpu = time.perf_counter(), time.process_time()
    action()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    print(f"{name:10}{rows / wall:12,.0f} rows/s{cpu / rows * 1e6:10.2f} CPU-s per M")


if __name__ == "__main__":
    main()
