import os
import signal
import subprocess
import sys
import textwrap
import threading
import time

import pytest

from tests.distributed.ranks import run
from tests.tzrec_core.small_model import Rows
from tzrec_core.distributed.agreement import agree
from tzrec_core.distributed.stop_signal import Stopped, StopRequest, stop_requests

WAITING = """
import hashlib, signal, time
from tzrec_core.distributed.stop_signal import stop_requests
with stop_requests() as stop:
    print("ready", flush=True)
    while stop.signum is None:
        time.sleep(0.01)
    print("told", flush=True)
    hashlib.pbkdf2_hmac("sha256", b"no Python runs meanwhile", b"", 300_000_000)
"""


def send(signum):
    os.kill(os.getpid(), signum)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_is_noted_and_afterwards_means_what_it_did_before(signum):
    before = signal.getsignal(signum)

    with stop_requests() as stop:
        assert stop.signum is None
        send(signum)

        assert stop.signum == signum
        assert stop.next_of(iter([1])) is None
    assert signal.getsignal(signum) is before


def test_under_nohup_a_terminal_that_is_closed_ends_nothing():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stop_requests() as stop:
            send(signal.SIGHUP)

            assert stop.signum is None
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_waiting_for_data_ends_when_the_signal_comes():
    def slow():
        time.sleep(60)
        yield 1

    started = time.monotonic()
    with stop_requests() as stop:
        timer = threading.Timer(0.1, send, (signal.SIGTERM,))
        timer.start()

        assert stop.next_of(slow()) is None
        timer.join()

    assert time.monotonic() - started < 30


def test_the_echo_of_a_signal_leaves_the_reader_to_end_in_order():
    ended = []

    def told_twice():
        try:
            send(signal.SIGTERM)
            time.sleep(60)
            yield 1
        finally:
            send(signal.SIGTERM)
            time.sleep(0)
            ended.append(True)

    with stop_requests() as stop:
        assert stop.next_of(told_twice()) is None

    assert ended == [True]


def test_without_a_signal_data_and_its_errors_come_through():
    def items():
        yield 1
        raise ValueError("bad row")

    stop, given = StopRequest(), items()

    assert stop.next_of(given) == 1
    with pytest.raises(ValueError, match="bad row"):
        stop.next_of(given)
    assert stop.next_of(iter([])) is None


def test_batches_end_where_all_ranks_stop():
    def batches():
        yield 1
        raise Stopped(signal.SIGINT)

    stop = StopRequest()

    assert list(stop.batches_until([1, 2])) == [1, 2]
    assert stop.agreed is None
    assert list(stop.batches_until(batches())) == [1]
    assert stop.agreed.code == 130


def code_of(ranks, signals):
    stop = StopRequest()
    if signals[ranks.rank] is not None:
        stop.notice(signals[ranks.rank], None)
    rows = Rows(8)
    with pytest.raises(Stopped) as stopped:
        list(agree(
            iter([rows.batch(0, 4)]), ranks,
            weigh=None, drop_remainder=False, empty=rows.batch(0, 0), stop=stop,
        ))  # fmt: skip
    return stopped.value.code


@pytest.mark.parametrize(
    ("signals", "code"),
    [
        ((None, signal.SIGINT), 130),
        ((signal.SIGINT, signal.SIGTERM), 143),
        ((signal.SIGHUP, None), 129),
    ],
)
def test_all_ranks_end_with_the_signal_that_any_of_them_got(signals, code):
    assert run(code_of, 2, signals) == [code, code]


@pytest.mark.parametrize(
    ("first", "pause", "second", "ended_by"),
    [
        (signal.SIGINT, 0.0, signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, 0.0, signal.SIGINT, signal.SIGINT),
        (signal.SIGTERM, 2.5, signal.SIGTERM, signal.SIGTERM),
        # A launcher forwards what the whole group of processes has got already.
        (signal.SIGTERM, 0.0, signal.SIGTERM, None),
        (signal.SIGINT, 0.0, signal.SIGTERM, None),
        (signal.SIGHUP, 0.0, signal.SIGTERM, None),
    ],
)
def test_a_second_signal_that_is_no_echo_ends_the_process_at_once(first, pause, second, ended_by):
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(WAITING)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert process.stdout.readline() == "ready\n"
        process.send_signal(first)
        assert process.stdout.readline() == "told\n"
        time.sleep(pause)
        process.send_signal(second)
        if ended_by is None:
            with pytest.raises(subprocess.TimeoutExpired):
                process.wait(1)
        else:
            assert process.wait(30) == 128 + ended_by
    finally:
        process.kill()
        process.communicate()


def test_in_another_thread_signals_are_left_alone():
    before = signal.getsignal(signal.SIGTERM)
    seen = []

    def body():
        with stop_requests() as stop:
            seen.extend([stop.signum, signal.getsignal(signal.SIGTERM)])

    thread = threading.Thread(target=body)
    thread.start()
    thread.join()

    assert seen == [None, before]
