"""Runs a test's function on real gloo ranks, one process each.

``run(function, world_size, *args)`` is what most tests want: every rank calls
``function(ranks, *args)`` inside ``distributed.ranks.process_group`` and the results come back
as a list, rank 0 first. ``spawn`` is the same without a process group, for tests of the group.

The function must be importable (a module-level function of the test module); arguments and results
must be picklable, and result tensors must be plain ones on the CPU (no ``DTensor``).
"""

import multiprocessing
import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import torch
import torch.distributed as dist

from tzrec_core.distributed.ranks import Ranks, process_group

# A fork server imports once what is slow to import; each rank is then a cheap fork of it, which has
# never run a kernel or a collective.
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(
    [
        "pytest",
        "sklearn.metrics",
        "tests.distributed.ranks",
        "torch.utils.tensorboard",
        "tzrec_core.training.trainer",
    ]
)


class RankError(RuntimeError):
    """A rank raised, died, or did not end in time; the message holds the ranks' tracebacks."""


def run(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120.0
) -> list[Any]:
    """Returns ``[function(ranks, *args) of rank 0, of rank 1, ...]``.

    Every rank passes a barrier and destroys its process group before it exits.

    Raises:
        RankError: A rank raised (its traceback is in the message), died, or ``timeout`` seconds
            went by. The other ranks are killed.
    """
    return spawn(_in_process_group, world_size, function, args, timeout=timeout)


def spawn(
    function: Callable[..., Any], world_size: int, *args: Any, timeout: float = 120.0
) -> list[Any]:
    """Returns each rank's ``function(*args)``, called with torchrun's environment and no group."""
    # As under torchrun, the launcher holds the store: the system picks a port that is free.
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    processes: list[BaseProcess] = []
    pipes: list[Connection] = []
    try:
        for rank in range(world_size):
            ours, theirs = _context.Pipe(duplex=False)
            environment = {
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                "LOCAL_WORLD_SIZE": str(world_size),
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(store.port),
                "TORCHELASTIC_USE_AGENT_STORE": "True",
                "OMP_NUM_THREADS": "1",
                "CUDA_VISIBLE_DEVICES": "",
            }
            process = _context.Process(
                target=_rank_main, args=(theirs, environment, function, args)
            )
            process.start()
            theirs.close()
            processes.append(process)
            pipes.append(ours)
        return _collect(processes, pipes, time.monotonic() + timeout)
    finally:
        for process in processes:
            process.kill()
            process.join()
        for pipe in pipes:
            pipe.close()


def _in_process_group(function: Callable[..., Any], args: tuple[Any, ...]) -> Any:
    with process_group() as ranks:
        assert isinstance(ranks, Ranks)
        return function(ranks, *args)


def _rank_main(
    pipe: Connection,
    environment: dict[str, str],
    function: Callable[..., Any],
    args: tuple[Any, ...],
) -> None:
    os.environ.update(environment)
    # The fork server has read OMP_NUM_THREADS already, when it imported torch.
    torch.set_num_threads(int(environment["OMP_NUM_THREADS"]))
    try:
        # Pickled by value here: torch's own reductions would share memory with a process that ends.
        answer = pickle.dumps(("result", function(*args)))
    except BaseException:  # a checkpoint error of torch is not an Exception
        pipe.send_bytes(pickle.dumps(("error", traceback.format_exc())))
        raise
    pipe.send_bytes(answer)


def _collect(processes: list[BaseProcess], pipes: list[Connection], deadline: float) -> list[Any]:
    answers: dict[int, Any] = {}
    while len(answers) < len(processes):
        waiting = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
        ready = wait(waiting, timeout=max(0.0, deadline - time.monotonic()))
        if not ready:
            missing = [rank for rank in range(len(processes)) if rank not in answers]
            raise RankError(f"ranks {missing} did not end in time")
        for pipe in ready:
            rank = pipes.index(pipe)  # type: ignore[arg-type]
            try:
                kind, answers[rank] = pickle.loads(pipes[rank].recv_bytes())
            except EOFError:
                processes[rank].join()
                raise RankError(f"rank {rank} died: exit code {processes[rank].exitcode}") from None
            if kind == "error":
                raise RankError(f"rank {rank} raised\n{answers[rank]}")
    for rank, process in enumerate(processes):
        process.join(max(0.0, deadline - time.monotonic()))
        if process.exitcode != 0:
            raise RankError(f"rank {rank} ended with exit code {process.exitcode}")
    return [answers[rank] for rank in range(len(processes))]
