"""Processes that wait for orders, so that what is compared takes turns on the same cores."""

import multiprocessing
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import torch
import torch.distributed as dist

from tzrec_core.training.memory import memory_in_use

# The fork server imports once what is slow to import, and never runs an operator or a collective.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["benchmarks.train.workers"])


@dataclass(frozen=True)
class Order:
    """What a worker is to do once.

    Attributes:
        what: One of the things that it can do.
        batch_size: Rows of a batch.
        precision: "fp32", "tf32" or "bf16".
        threads: Of torch's operators; 0: as many as there were when the worker started.
    """

    what: str
    batch_size: int
    precision: str
    threads: int


@dataclass(frozen=True)
class Outcome:
    """What carrying an order out came to, of all ranks together.

    Attributes:
        work: Rows, or what else the worker counts.
        wall: Seconds, of the slowest rank.
        cpu: Seconds, of all threads.
        peak_gib: The most host memory that the processes held at a time, what they had before
            included.
    """

    work: float
    wall: float
    cpu: float
    peak_gib: float


class Worker(Protocol):
    """What lives in each process."""

    def run(self, order: Order) -> float:
        """Carries out the order and returns how much work it was."""

    def describe(self) -> Any:
        """Returns what else there is to know, after all orders."""


class Workers:
    """A worker in each of ``world_size`` processes, which torchrun could have started.

    Args:
        make: ``make(*args)`` is the worker, for the length of a ``with`` block; importable.
        args: Of ``make``; can be pickled.
        world_size: Number of processes.
    """

    def __init__(
        self, make: Callable[..., AbstractContextManager[Worker]], *args: object, world_size: int
    ) -> None:
        # As under torchrun the store is not the ranks': the system picks a free port for it.
        self._store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
        self._pipes: list[Connection] = []
        self._processes: list[BaseProcess] = []
        for rank in range(world_size):
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(self._store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
            }
            ours, theirs = _context.Pipe()
            process = _context.Process(target=_serve, args=(theirs, environment, make, args))
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)

    def run(self, order: Order) -> Outcome:
        """Has all ranks carry out ``order`` and waits for them."""
        outcomes: list[Outcome] = self._ask(order)
        return Outcome(
            work=sum(outcome.work for outcome in outcomes),
            wall=max(outcome.wall for outcome in outcomes),
            cpu=sum(outcome.cpu for outcome in outcomes),
            peak_gib=sum(outcome.peak_gib for outcome in outcomes),
        )

    def describe(self) -> Any:
        """Returns what the worker of rank 0 has to say."""
        return self._ask("describe")[0]

    def __enter__(self) -> "Workers":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for pipe in self._pipes:
            if error is None:
                pipe.send(None)
            pipe.close()
        for process in self._processes:
            if error is not None:
                process.kill()
            process.join()

    def _ask(self, question: object) -> list[Any]:
        for pipe in self._pipes:
            pipe.send(question)
        try:
            return [pipe.recv() for pipe in self._pipes]
        except EOFError:
            raise RuntimeError(f"a process ended before it had done {question}") from None


def _serve(
    pipe: Connection,
    environment: dict[str, str],
    make: Callable[..., AbstractContextManager[Worker]],
    args: tuple[object, ...],
) -> None:
    os.environ.update(environment)
    with ExitStack() as stack:
        worker = stack.enter_context(make(*args))
        num_threads = torch.get_num_threads()
        while (question := pipe.recv()) is not None:
            if not isinstance(question, Order):
                pipe.send(worker.describe())
                continue
            torch.set_num_threads(question.threads or num_threads)
            pipe.send(_measured(worker, question))


def _measured(worker: Worker, order: Order) -> Outcome:
    # Linux then counts the peak anew.
    Path("/proc/self/clear_refs").write_text("5")
    started, started_cpu = time.perf_counter(), time.process_time()
    work = worker.run(order)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    wall, cpu = time.perf_counter() - started, time.process_time() - started_cpu
    peak = memory_in_use(torch.device("cpu"))["host_peak_gib"]
    return Outcome(work, wall, cpu, peak)
