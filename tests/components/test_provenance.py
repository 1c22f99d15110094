import os
import shutil

import pytest

from components import provenance


@pytest.fixture
def checkpoint(tmp_path):
    folder = tmp_path / "model.ckpt-8"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "weights").write_bytes(b"1234")
    (folder / "state.json").write_text('{"step": 8}')
    return folder


def test_a_checkpoint_that_was_moved_with_its_times_is_the_same(checkpoint, tmp_path):
    copy = shutil.copytree(checkpoint, tmp_path / "elsewhere" / "model.ckpt-8")

    assert provenance.identity(copy) == provenance.identity(checkpoint)


@pytest.mark.parametrize("name", ["state.json", "model/weights"])
def test_a_checkpoint_with_a_file_written_anew_is_another_though_its_bytes_are_equal(
    checkpoint, name
):
    before = provenance.identity(checkpoint)
    time = (checkpoint / name).stat().st_mtime_ns
    os.utime(checkpoint / name, ns=(time + 1000, time + 1000))

    assert provenance.identity(checkpoint) != before


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*model\.ckpt-9"):
        provenance.identity(tmp_path / "model.ckpt-9")
