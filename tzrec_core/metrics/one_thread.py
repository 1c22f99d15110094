"""Keeps what judges many rows on a CPU to one thread."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def one_thread() -> Iterator[None]:
    """Lets torch compute on one thread; ``@one_thread()`` does so for a function.

    For formulas that sort: the sort takes most of the time, on one thread anyway. Between sorts
    come dozens of short steps, after each of which threads wait for each other. That saves little
    where cores are idle; where others are busy on them, each wait lasts until the operating system
    lets the last thread run again, and the formula takes ten times as long.
    """
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(num_threads)
