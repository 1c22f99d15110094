"""Calls a function on the items of an iterable, in order, on threads that stay a little ahead."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def read_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], *, num_threads: int
) -> Iterator[Result]:
    """Yields ``function(item)`` for each item, in the items' order.

    ``items`` is advanced by the caller's thread. An exception of ``function`` is raised where its
    result would have been. When the iterator is closed or dropped, its threads end after what they
    are doing.

    Args:
        function: must be safe to call from several threads.
        items: its items are taken at most ``num_threads + 1`` ahead of the consumer, which bounds
            the number of results in memory.
        num_threads: 0 calls ``function`` in the caller's thread, when its result is asked for.
    """
    if num_threads == 0:
        yield from map(function, items)
        return
    pending: deque[Future[Result]] = deque()
    pool = ThreadPoolExecutor(num_threads, thread_name_prefix="read_ahead")
    try:
        for item in items:
            pending.append(pool.submit(function, item))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
