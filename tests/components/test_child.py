import os
import pty
import signal
import subprocess
import sys
import textwrap
import time
from collections import deque

import pytest

from components import child

PYTHON = [sys.executable, "-u", "-c"]


def test_output_is_shown_as_it_comes_and_kept(capfd):
    code = "import os, sys; print('out'); print('err', file=sys.stderr); print(os.environ['A'])"
    ended = child.run([*PYTHON, code], env={"A": "é"})

    assert ended.code == 0
    assert sorted(ended.lines) == ["err\n", "out\n", "é\n"]
    assert capfd.readouterr().out == "".join(ended.lines)


def test_a_child_that_writes_more_than_a_pipe_holds_ends(capfd):
    ended = child.run([*PYTHON, "for i in range(200000): print(i)"], env={})

    assert ended.code == 0
    assert ended.lines[-1] == "199999\n"
    assert len(ended.lines) <= 2000


STOPPING = """
import sys
from components import child, steps
def main(argv):
    try:
        child.run([sys.executable, "-u", "-c", {inner!r}], env={{}})
    finally:
        print("cleaned up", flush=True)
steps.run(main, [])
"""
SAVING = """
import signal, sys, time
def save(*_):
    print("saving", flush=True)
    time.sleep(1)
    print("x" * 200000, "saved", flush=True)
    sys.exit(143)
signal.signal(signal.SIGTERM, save)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("sent", "to_all", "code"),
    [(signal.SIGTERM, False, 143), (signal.SIGTERM, True, 143), (signal.SIGINT, False, 130)],
)
def test_a_step_that_is_stopped_stops_its_child_and_waits_until_it_has_saved(sent, to_all, code):
    step = subprocess.Popen(
        [*PYTHON, STOPPING.format(inner=SAVING)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    assert step.stdout.readline() == "ready\n"
    os.killpg(step.pid, sent) if to_all else step.send_signal(sent)
    output, _ = step.communicate(timeout=30)

    assert step.returncode == code
    assert "saved" in output
    assert output.splitlines().index("saving") < output.splitlines().index("cleaned up")


def test_a_signal_that_comes_just_before_the_step_waits_is_handled_all_the_same():
    """As one that another thread gets, which interrupts no call of the main thread."""
    deaf = (
        "import signal, threading, time\n"
        "threading.Thread(target=time.sleep, args=[60], daemon=True).start()\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM])\n"
    )
    hearing = "import signal; signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])\n"
    step = subprocess.Popen(
        [*PYTHON, deaf + STOPPING.format(inner=hearing + SAVING)],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    assert step.stdout.readline() == "ready\n"
    step.terminate()
    output, _ = step.communicate(timeout=30)

    assert step.returncode == 143
    assert "saved" in output


SAVING_TO_A_FILE = """
import signal, sys, time
def save(*_):
    for signum in (signal.SIGHUP, signal.SIGTERM):
        signal.signal(signum, signal.SIG_IGN)
    print("saving", flush=True)
    time.sleep(1)
    open({path!r}, "w").write("saved")
    sys.exit()
signal.signal(signal.SIGTERM, save)
signal.signal(signal.SIGHUP, {on_hangup})
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("on_hangup", ["save", "signal.SIG_IGN"])
def test_a_child_saves_although_the_terminal_of_its_step_was_closed(tmp_path, on_hangup):
    """A shell tells all that it has started; a rank of torchrun has a session of its own."""
    inner = SAVING_TO_A_FILE.format(path=str(tmp_path / "saved"), on_hangup=on_hangup)
    terminal, end = pty.openpty()
    step = subprocess.Popen(
        [*PYTHON, STOPPING.format(inner=inner)], stdout=end, stderr=end, start_new_session=True
    )
    os.close(end)
    shown = b""
    while b"ready" not in shown:
        shown += os.read(terminal, 1000)
    os.close(terminal)
    os.killpg(step.pid, signal.SIGHUP)
    step.wait(timeout=30)

    assert (tmp_path / "saved").exists()


def test_a_line_that_is_written_over_is_shown_before_it_ends(capsys):
    pieces = iter([b"10%\r", b"20%", b"\r", b"done\r", b"\n"])
    shown = []

    def chunks():
        for piece in pieces:
            yield piece
            shown.append(capsys.readouterr().out)

    kept = deque()
    child.show(chunks(), kept)

    assert shown == ["", "10%\r", "", "20%\r", "done\r\n"]
    assert list(kept) == ["10%\r", "20%\r", "done\r\n"]


def test_lines_may_come_in_pieces_that_end_anywhere(capsys):
    text = "eins\nzwei é\r\n\ndrei"
    for size in (1, 2, 5):
        whole = text.encode()
        kept = deque()
        child.show((whole[i : i + size] for i in range(0, len(whole), size)), kept)

        assert list(kept) == ["eins\n", "zwei é\r\n", "\n", "drei"]
        assert capsys.readouterr().out == text
    kept = deque()
    child.show([b"\xff\n\xc3"], kept)
    assert list(kept) == ["\ufffd\n", "\ufffd"]


def test_a_second_interrupt_kills_a_child_that_does_not_stop():
    stubborn = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('ready', flush=True)\ntime.sleep(60)"
    )
    step = subprocess.Popen(
        [*PYTHON, STOPPING.format(inner=stubborn)], stdout=subprocess.PIPE, text=True
    )
    assert step.stdout.readline() == "ready\n"
    started = time.monotonic()
    step.send_signal(signal.SIGTERM)
    time.sleep(1)
    assert step.poll() is None
    step.send_signal(signal.SIGINT)
    step.communicate(timeout=30)

    assert time.monotonic() - started < 20


@pytest.mark.parametrize(
    ("output", "expected"),
    [
        ("[12:00][INFO] hello\nerror: no column 'x'\n", "no column 'x'"),
        ("error: first\n[12:00] retry\nerror: line 1\nline 2\n", "line 1\nline 2"),
        ("Traceback (most recent call last):\n  File ...\nKeyError: 'x'\n", "KeyError: 'x'"),
        ("a.b.StrangeError: x\nlast words\n", "a.b.StrangeError: x"),
        ("Killed\n\n", "Killed"),
        ("", "it wrote nothing"),
    ],
)
def test_the_error_is_found_in_the_output(output, expected):
    assert child.error_of(output.splitlines(keepends=True)) == expected


def test_the_error_of_a_rank_is_found_before_what_torchrun_says_of_it(tmp_path):
    script = tmp_path / "rank.py"
    script.write_text(
        textwrap.dedent("""
        import os, sys, time
        if os.environ["RANK"] == "1":
            print("error: the label column 'click' has a null", file=sys.stderr, flush=True)
            sys.exit(2)
        time.sleep(60)
        """)
    )
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    ended = child.run([*torchrun, str(script)], env={"OMP_NUM_THREADS": "1"})

    assert ended.code == 1
    assert child.error_of(ended.lines) == "the label column 'click' has a null"
