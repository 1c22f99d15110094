import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tzrec_core.data.publish import published

ROOT = Path(__file__).parents[3]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def start_writer(folder: Path) -> subprocess.Popen[str]:
    """Starts a process that is in the middle of writing when this returns."""
    program = f"""
import sys, time
from pathlib import Path
from tzrec_core.data.publish import published
with published(Path({str(folder)!r})) as aside:
    (aside / "half").touch()
    print("writing", flush=True)
    sys.stdin.read()
"""
    writer = subprocess.Popen(
        [sys.executable, "-c", program],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    return writer


def test_the_folder_appears_when_it_is_complete(tmp_path):
    with published(tmp_path / "out" / "data") as aside:
        (aside / "file").write_text("x")
        assert not (tmp_path / "out" / "data").exists()

    assert (tmp_path / "out" / "data" / "file").read_text() == "x"
    assert names(tmp_path / "out") == ["data"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_nothing_is_left_of_a_failed_block(tmp_path, error):
    def write_half() -> None:
        with published(tmp_path / "data") as aside:
            (aside / "file").write_text("x")
            raise error

    with pytest.raises(error):
        write_half()
    assert names(tmp_path) == []


def test_what_a_killed_process_left_is_removed_by_the_next(tmp_path):
    writer = start_writer(tmp_path / "data")
    os.kill(writer.pid, signal.SIGKILL)
    writer.communicate()
    assert len(names(tmp_path)) == 2

    with published(tmp_path / "other"):
        pass

    assert names(tmp_path) == ["other"]


def test_what_a_living_process_writes_is_left_alone(tmp_path):
    writer = start_writer(tmp_path / "data")

    with published(tmp_path / "other"):
        pass

    assert len(names(tmp_path)) == 3
    writer.communicate("")
    assert names(tmp_path) == ["data", "other"]
    assert names(tmp_path / "data") == ["half"]


def test_of_two_writers_the_first_to_finish_stays(tmp_path):
    writer = start_writer(tmp_path / "data")
    with published(tmp_path / "data") as aside:
        (aside / "ours").touch()
    writer.communicate("")

    assert writer.returncode == 0
    assert names(tmp_path) == ["data"]
    assert names(tmp_path / "data") == ["ours"]


def test_a_parent_that_cannot_be_made_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").touch()

    with pytest.raises(OSError, match="file"), published(tmp_path / "file" / "data"):
        pass
