"""One training writes into a folder at a time, and none that is dead keeps others out."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from tzrec_core.training.lock import FILE, locked

HOLD = """
import sys, time
from pathlib import Path
from tzrec_core.training.lock import locked

with locked(Path(sys.argv[1])):
    print("locked", flush=True)
    sys.stdin.read()
"""


def holder(folder: Path) -> subprocess.Popen[bytes]:
    """Returns a process that holds the folder's lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"locked\n"
    return process


def abandoned(folder: Path, **changes) -> Path:
    """Leaves the lock file of a holder that is dead, or somewhere else."""
    path = folder / FILE
    with locked(folder):
        content = json.loads(path.read_text())
    path.write_text(json.dumps(content | changes))
    return path


def test_a_second_process_is_refused_and_told_who_holds_the_lock(tmp_path):
    process = holder(tmp_path)

    refusal = f"by process {process.pid} on {socket.gethostname()} since 2"
    with pytest.raises(ValueError, match=refusal), locked(tmp_path):
        pass

    process.communicate(b"")
    with locked(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == []


def test_the_same_process_is_refused_too(tmp_path):
    refusal = f"by process {os.getpid()} "
    with locked(tmp_path), pytest.raises(ValueError, match=refusal), locked(tmp_path):
        pass


def test_a_killed_process_holds_nothing(tmp_path):
    process = holder(tmp_path)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / FILE).exists()

    with locked(tmp_path, interval=1e6):  # nor is there anything to wait for
        assert json.loads((tmp_path / FILE).read_text())["pid"] == os.getpid()


def test_a_holder_elsewhere_without_a_sign_of_life_is_dead(tmp_path):
    path = abandoned(tmp_path, host="gone", place="another machine")

    with locked(tmp_path, interval=0.02):
        assert json.loads(path.read_text())["host"] == socket.gethostname()

    assert list(tmp_path.iterdir()) == []


def test_a_holder_elsewhere_that_gives_signs_of_life_is_respected(tmp_path):
    # What a mount looks like whose locks stay on their machine: the kernel refuses nobody here.
    path = abandoned(tmp_path, host="other", pid=7, place="another machine")
    dead = threading.Event()

    def live() -> None:
        while not dead.wait(0.01):
            os.utime(path)

    thread = threading.Thread(target=live)
    thread.start()
    try:
        refusal = "trained into by process 7 on other since"
        with pytest.raises(ValueError, match=refusal), locked(tmp_path, interval=0.1):
            pass
    finally:
        dead.set()
        thread.join()
    assert path.exists()


def test_the_holder_gives_signs_of_life(tmp_path):
    with locked(tmp_path, interval=0.01):
        before = (tmp_path / FILE).stat().st_mtime_ns
        deadline = time.monotonic() + 30
        while (tmp_path / FILE).stat().st_mtime_ns == before and time.monotonic() < deadline:
            time.sleep(0.01)
        assert (tmp_path / FILE).stat().st_mtime_ns != before


@pytest.mark.parametrize("content", ["", '{"pid": 1', "[]"])
def test_a_file_that_nobody_has_written_to_its_end_is_no_lock(tmp_path, content):
    (tmp_path / FILE).write_text(content)

    with locked(tmp_path):
        pass


def test_a_lock_that_was_taken_over_is_not_released_for_its_new_holder(tmp_path):
    with locked(tmp_path):
        (tmp_path / FILE).write_text('{"pid": 1, "host": "other"}')

    assert (tmp_path / FILE).exists()


def test_a_failing_block_leaves_no_folder_that_was_not_there(tmp_path):
    folder = tmp_path / "new"

    with pytest.raises(KeyError), locked(folder):
        raise KeyError

    assert not folder.exists()


def test_a_folder_that_was_filled_stays(tmp_path):
    with locked(tmp_path / "new"):
        (tmp_path / "new" / "result").write_text("1")

    assert [path.name for path in (tmp_path / "new").iterdir()] == ["result"]
