import itertools
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tzrec_core.data.read_ahead import read_ahead

ROOT = Path(__file__).parents[3]


def threads() -> int:
    return sum(thread.name.startswith("read_ahead") for thread in threading.enumerate())


def wait_until(condition) -> bool:
    deadline = time.monotonic() + 10
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.005)
    return condition()


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_results_come_in_the_order_of_the_items(num_threads):
    draw = random.Random(0)

    def slow(item: int) -> int:
        time.sleep(draw.random() / 500)
        return item * 2

    found = list(read_ahead(slow, range(50), num_threads=num_threads))

    assert found == [item * 2 for item in range(50)]


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_an_exception_comes_where_the_result_would_have(num_threads):
    results = read_ahead(lambda item: 6 // item, [3, 2, 0, 1], num_threads=num_threads)

    assert [next(results), next(results)] == [2, 3]
    with pytest.raises(ZeroDivisionError):
        next(results)
    assert list(results) == []
    assert wait_until(lambda: threads() == 0)


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_an_exception_of_the_items_comes_through(num_threads):
    def items():
        yield 1
        raise KeyError("no more")

    with pytest.raises(KeyError, match="no more"):
        list(read_ahead(lambda item: item, items(), num_threads=num_threads))
    assert wait_until(lambda: threads() == 0)


@pytest.mark.parametrize("num_threads", [0, 1, 4])
def test_only_a_bounded_number_of_items_is_taken_ahead(num_threads):
    taken = []

    def items():
        for item in itertools.count():
            taken.append(item)
            yield item

    results = read_ahead(lambda item: item, items(), num_threads=num_threads)
    for count in range(1, 20):
        next(results)
        assert len(taken) <= count + num_threads
    results.close()


def test_the_function_runs_on_several_threads_at_once():
    # A barrier that only four callers together can pass.
    barrier = threading.Barrier(4, timeout=20)

    results = list(read_ahead(lambda _: barrier.wait() < 4, range(4), num_threads=4))

    assert results == [True] * 4


def test_threads_end_when_the_iterator_is_dropped_even_amid_work():
    released = threading.Event()
    chained = read_ahead(lambda item: item, itertools.count(), num_threads=2)
    results = read_ahead(lambda item: item == 0 or released.wait(20), chained, num_threads=2)
    next(results)
    assert threads() >= 2

    del chained, results
    released.set()

    assert wait_until(lambda: threads() == 0)


def test_the_interpreter_ends_while_an_iterator_is_in_use():
    program = """
import itertools, time
from tzrec_core.data.read_ahead import read_ahead
inner = read_ahead(lambda item: time.sleep(0.01) or item, itertools.count(), num_threads=2)
outer = read_ahead(lambda _: next(inner), itertools.repeat(None), num_threads=1)
print(next(outer), next(outer))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=ROOT,
    )

    assert (done.returncode, done.stdout, done.stderr) == (0, "0 1\n", "")
