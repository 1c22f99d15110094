"""What is compared: the library's model, loader and training, and the training written by hand."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from benchmarks.train.control import Control, ControlBatch, alone
from benchmarks.train.operators import Share, multiply, profiled
from benchmarks.train.processes import Order
from tzrec_core.assembly import SEED, assemble
from tzrec_core.batch import Batch
from tzrec_core.data.build import build_dataset
from tzrec_core.data.collate import empty_batch
from tzrec_core.data.dataset import Dataset
from tzrec_core.distributed.agreement import agree, seed_step
from tzrec_core.distributed.ranks import Ranks, process_group
from tzrec_core.distributed.train_pipeline import train_pipeline
from tzrec_core.features.build import build_schema
from tzrec_core.optim.accumulation import accumulated
from tzrec_core.optim.precision import tf32
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.task_metrics import TrainMetrics
from tzrec_core.tasks import checked, loss_weights
from tzrec_core.training.progress import Progress, Window

DTYPES = {"fp32": None, "tf32": None, "bf16": torch.bfloat16}
LOG_STEPS = 100


class Product:
    """A rank of ``tzrec_core``.

    Does "warm up", "model", "loader", "training" and its "profile", and "gemm".
    """

    def __init__(self, config: EasyRecConfig, ranks: Ranks) -> None:
        self._config = config
        self._ranks = ranks
        self.job = assemble(config, ranks)
        self.job.model.train()
        self._pipeline = train_pipeline(self.job.model, self.job.stepper, ranks)
        self._datasets: dict[int, Dataset] = {}
        self._in_memory: dict[int, list[Batch]] = {}
        self._progress = Progress()
        self._shares: list[Share] = []

    def run(self, order: Order) -> float:
        self.job.model.module.model.head.training_dtype = DTYPES[order.precision]
        with tf32(matmul=order.precision == "tf32", cudnn=order.precision == "tf32"):
            match order.what:
                case "warm up":
                    return self._train_on(iter(self._batches(order.batch_size)[:3]))
                case "model":
                    return self._train_on(iter(self._batches(order.batch_size)))
                case "loader":
                    data = self._data(order.batch_size)
                    self._progress.epoch += 1
                    return sum(map(len, data.batches(self._progress.epoch)))
                case "training":
                    return self._train(order.batch_size)
                case "gemm":
                    return multiply(self._ranks.device, DTYPES[order.precision] or torch.float32)
                case "profile":
                    rows, self._shares = profiled(partial(self._train, order.batch_size))
                    return rows
        raise ValueError(f"no such order: {order.what}")

    def describe(self) -> dict[str, Any]:
        head = self.job.model.module.model.head
        layers = [layer for layer in head.modules() if isinstance(layer, nn.Linear)]
        return {
            "device": self._ranks.device.type,
            "threads": torch.get_num_threads(),
            # A product forward, and two of the same size backward.
            "flops": 6 * sum(layer.in_features * layer.out_features for layer in layers),
            "shares": self._shares,
        }

    def _data(self, batch_size: int) -> Dataset:
        if batch_size not in self._datasets:
            self._datasets[batch_size] = dataset(self._config, batch_size, self._ranks)
        return self._datasets[batch_size]

    def _batches(self, batch_size: int) -> list[Batch]:
        if batch_size not in self._in_memory:
            self._in_memory.clear()
            batches = self._data(batch_size).batches(0)
            self._in_memory[batch_size] = [batch.to(self._ranks.device) for batch in batches]
        return self._in_memory[batch_size]

    def _train_on(self, batches: Iterator[Batch]) -> int:
        batches = self.job.stepper.expected(batches)
        rows = 0
        while True:
            try:
                rows += len(self._pipeline.progress(batches)[2])
            except StopIteration:
                return rows

    def _train(self, batch_size: int) -> int:
        """Trains an epoch with all that ``training.trainer`` does for a step."""
        job, ranks, progress = self.job, self._ranks, self._progress
        progress.epoch += 1
        progress.consumed = {}
        data = self._data(batch_size)
        window = Window(ranks, TrainMetrics(self._config).to(ranks.device), data.where)
        batches = agree(
            checked(data.batches(progress.epoch), job.tasks),
            ranks,
            weigh=partial(loss_weights, job.tasks),
            drop_remainder=False,
            empty=empty_batch(job.schema),
        )
        batches = window.timed(accumulated(batches, num_batches=1, limit=None))
        batches = job.stepper.expected(batches)
        rows = 0
        while True:
            job.stepper.schedule(step=progress.step, epoch=progress.epoch)
            seed_step(ranks, seed=SEED, step=progress.step)
            try:
                output = self._pipeline.progress(batches)
            except StopIteration:
                break
            window.add(output, progress.advance(output[2].position))
            rows += len(output[2])
            if progress.step % LOG_STEPS == 0:
                window.close()
        window.close()
        return rows


class ControlWorker:
    """The training by hand: does "warm up", "control" on the same batches, and "profile"."""

    def __init__(self, config: EasyRecConfig, tables: Sequence[int]) -> None:
        units = list(config.model_config.deepfm.deep.hidden_units)
        width = build_schema(config).width
        self._control = Control(tables, width, units, config.data_config.batch_size)
        self._config = config
        self._in_memory: dict[int, list[ControlBatch]] = {}
        self._shares: list[Share] = []

    def run(self, order: Order) -> float:
        batches = self._batches(order.batch_size)
        self._control.model.dtype = DTYPES[order.precision]
        with tf32(matmul=order.precision == "tf32", cudnn=order.precision == "tf32"):
            match order.what:
                case "warm up":
                    return self._train_on(batches[:3])
                case "control":
                    return self._train_on(batches)
                case "profile":
                    rows, self._shares = profiled(partial(self._train_on, batches))
                    return rows
        raise ValueError(f"no such order: {order.what}")

    def describe(self) -> dict[str, Any]:
        return {"shares": self._shares}

    def _train_on(self, batches: Sequence[ControlBatch]) -> int:
        for batch in batches:
            self._control.step(batch)
        return sum(len(batch.label) for batch in batches)

    def _batches(self, batch_size: int) -> list[ControlBatch]:
        if batch_size not in self._in_memory:
            self._in_memory.clear()
            batches = dataset(self._config, batch_size, ranks=None).batches(0)
            self._in_memory[batch_size] = [
                control_batch(batch.to(self._control.device)) for batch in batches
            ]
        return self._in_memory[batch_size]


def dataset(config: EasyRecConfig, batch_size: int, ranks: Ranks | None) -> Dataset:
    """Returns a rank's training rows in batches of this size; all of them without ranks."""
    sized = EasyRecConfig()
    sized.CopyFrom(config)
    sized.data_config.batch_size = batch_size
    return build_dataset(
        sized,
        build_schema(sized),
        input_path=sized.train_input_path,
        training=True,
        rank=0 if ranks is None else ranks.rank,
        world_size=1 if ranks is None else ranks.world_size,
    )


def control_batch(batch: Batch) -> ControlBatch:
    """Returns a batch in the form that the control takes."""
    (label,), (weight,) = batch.labels.values(), batch.sample_weights.values()
    return ControlBatch(batch.dense, batch.sparse, label.float(), weight)


@contextmanager
def product(config: EasyRecConfig) -> Iterator[Product]:
    """Makes a rank of ``tzrec_core``, in the process group of torchrun's environment."""
    with process_group() as ranks:
        yield Product(config, ranks)


@contextmanager
def control(config: EasyRecConfig, tables: Sequence[int]) -> Iterator[ControlWorker]:
    """Makes the training written by hand."""
    with alone():
        yield ControlWorker(config, tables)
