"""What a checkpoint costs a training, written at once and in the background.

``make bench-checkpoints`` trains ten tables of 1 M x 16 with rowwise Adagrad on random ids, with
one rank and with two, and saves in turn at once and in the background. Medians: ``stall`` is how
long ``save`` takes, ``done`` how long it is until the checkpoint is there, ``cost`` is ``done``
without the time that the steps meanwhile would have taken anyway.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torchrec import EmbeddingBagCollection, EmbeddingBagConfig, KeyedJaggedTensor

from tzrec_core.checkpoints import checkpoint, restoring
from tzrec_core.checkpoints.writer import CheckpointWriter, Content, collect
from tzrec_core.distributed.ranks import Ranks, process_group
from tzrec_core.distributed.sharding import shard
from tzrec_core.optim.build import build_optimizer
from tzrec_core.optim.sparse import apply_sparse_optimizer, rowwise_adagrad
from tzrec_core.protos import optimizer_pb2

NUM_TABLES = 10
DIM = 16
BATCH_SIZE = 2048
RULE = rowwise_adagrad(lr=0.1, gradient_clipping=False, max_gradient=1.0)
DENSE = optimizer_pb2.DenseOptimizer(adam_optimizer=optimizer_pb2.AdamOptimizer(lr=0.001))


class Model(nn.Module):
    """Tables and a small network."""

    def __init__(self, rows: int) -> None:
        super().__init__()
        tables = [
            EmbeddingBagConfig(
                name=f"t{i}", num_embeddings=rows, embedding_dim=DIM, feature_names=[f"f{i}"]
            )
            for i in range(NUM_TABLES)
        ]
        self.ebc = EmbeddingBagCollection(tables=tables, device=torch.device("meta"))
        self.net = nn.Sequential(nn.Linear(NUM_TABLES * DIM, 256), nn.ReLU(), nn.Linear(256, 1))

    def forward(self, ids: KeyedJaggedTensor) -> Tensor:
        """Returns a loss without sense."""
        loss: Tensor = self.net(self.ebc(ids).values()).square().mean()
        return loss


def main() -> None:
    """Prints one table."""
    flags = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    flags.add_argument("--rows", type=int, default=1_000_000, help="of each table")
    flags.add_argument("--saves", type=int, default=4, help="of each kind")
    flags.add_argument("--folder", type=Path, help="where to write; default: a temporary one")
    args = flags.parse_args()
    if "RANK" in os.environ:
        measure(args.rows, args.saves, args.folder)
        return

    print("ranks saved             MB  step ms  stall s   done s   cost s")
    for world_size in (1, 2):
        with tempfile.TemporaryDirectory(dir=args.folder) as folder:
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            command += [f"--nproc_per_node={world_size}", "-m", "benchmarks.checkpoints"]
            command += [f"--rows={args.rows}", f"--saves={args.saves}", f"--folder={folder}"]
            threads = str(3 - world_size)
            subprocess.run(command, check=True, env={**os.environ, "OMP_NUM_THREADS": threads})


def measure(rows: int, num_saves: int, folder: Path) -> None:
    """Prints the lines of this number of ranks."""
    with process_group() as ranks:
        torch.manual_seed(0)
        model = Model(rows)
        apply_sparse_optimizer(model, RULE)
        sharded = shard(model, ranks, batch_size=BATCH_SIZE, seed=0)
        optimizer = build_optimizer(DENSE, sharded, RULE)
        generator = torch.Generator().manual_seed(ranks.rank)
        keys = [f"f{i}" for i in range(NUM_TABLES)]
        lengths = torch.ones(NUM_TABLES * BATCH_SIZE, dtype=torch.int32)

        def step() -> float:
            started = time.perf_counter()
            ids = torch.randint(rows, (NUM_TABLES * BATCH_SIZE,), generator=generator)
            optimizer.zero_grad()
            sharded(KeyedJaggedTensor.from_lengths_sync(keys, ids, lengths)).backward()
            optimizer.step()
            return time.perf_counter() - started

        def content() -> Content:
            return collect(
                1, ranks, model=sharded, optimizer=optimizer, epoch=0, consumed={}, state={}
            )

        for _ in range(20):
            step()
        alone = median(step() for _ in range(100))
        seen: dict[str, list[list[float]]] = {"at once": [], "in background": []}
        with (
            CheckpointWriter(folder, ranks, in_background=False) as at_once,
            CheckpointWriter(folder, ranks, in_background=True) as in_background,
        ):
            for _ in range(num_saves):
                for name, writer in zip(seen, (at_once, in_background), strict=True):
                    seen[name].append(_save(writer, content, step, alone, ranks))
        path = checkpoint.checkpoint_path(folder, 1)
        started = time.perf_counter()
        checkpoint.check_files(path, ranks)
        checked = time.perf_counter()
        restoring.restore(path, ranks, model=sharded, optimizer=optimizer, is_checked=True)
        restored = time.perf_counter()
        if ranks.rank != 0:
            return
        size = sum(file.stat().st_size for file in path.rglob("*") if file.is_file()) / 1e6
        for name, saves in seen.items():
            times = "".join(f"{median(column):9.2f}" for column in zip(*saves, strict=True))
            print(f"{ranks.world_size:5} {name:13}{size:7.0f}{alone * 1e3:9.1f}{times}")
        seconds = f"checked in {checked - started:.2f} s, restored in {restored - checked:.2f} s"
        print(f"{ranks.world_size:5} {seconds}", flush=True)


def _save(
    writer: CheckpointWriter,
    content: Callable[[], Content],
    step: Callable[[], float],
    alone: float,
    ranks: Ranks,
) -> list[float]:
    for _ in range(20):
        step()
    dist.barrier(ranks.control)
    started = time.perf_counter()
    writer.save(content())
    stall = time.perf_counter() - started
    num_steps = 0
    while _is_busy_anywhere(writer, ranks):
        step()
        num_steps += 1
    writer.wait()
    done = time.perf_counter() - started
    return [stall, done, done - num_steps * alone]


def _is_busy_anywhere(writer: CheckpointWriter, ranks: Ranks) -> bool:
    busy = torch.tensor(float(writer.is_busy))
    dist.all_reduce(busy, group=ranks.control)
    return bool(busy)


if __name__ == "__main__":
    main()
