import os
import shutil

import pytest

from tzrec_core.checkpoints import checkpoint
from tzrec_core.run_dir import RunDir, RunInfo, identify, write_json
from tzrec_core.training.milestones import RESULT_FILE


def test_what_prepare_data_writes_is_read_by_the_steps_after_it(tmp_path):
    info = RunInfo("run-1", "tzrec", "data/abc", "#/experiments/1/runs/2")
    RunDir(tmp_path / "run").write_info(info)

    assert RunDir(tmp_path / "run").read_info() == info
    assert RunDir(tmp_path / "run").prepared_data() == tmp_path / "run" / "data" / "abc"


def test_a_run_dir_that_is_not_prepared_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="run prepare_data"):
        RunDir(tmp_path).read_info()
    RunDir(tmp_path).write_info(RunInfo("run-1", "tzrec", data=""))
    with pytest.raises(ValueError, match="has no prepared data"):
        RunDir(tmp_path).prepared_data()


def test_paths_do_not_depend_on_a_later_working_directory(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_dir = RunDir("run")
    monkeypatch.chdir("/")

    assert run_dir.config == tmp_path / "run" / "pipeline.config"


def test_names_in_the_run_dir_are_those_that_training_uses(tmp_path):
    run_dir = RunDir(tmp_path)
    for step in (9, 10, 100):
        checkpoint.checkpoint_path(run_dir.checkpoints, step).mkdir(parents=True)
    (run_dir.checkpoints / ".model.ckpt-5.incomplete").mkdir()
    (run_dir.checkpoints / "model.ckpt-7x").mkdir()

    assert run_dir.checkpoint_steps() == checkpoint.steps(run_dir.checkpoints) == [9, 10, 100]
    assert run_dir.checkpoint(9) == checkpoint.checkpoint_path(run_dir.checkpoints, 9)
    assert run_dir.train_eval_result == run_dir.checkpoints / RESULT_FILE


def test_a_json_file_is_replaced_as_a_whole(tmp_path):
    path = tmp_path / "folder" / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(path, {"a": float("nan")})

    assert path.read_text() == '{\n "a": 1\n}\n'
    assert [p.name for p in path.parent.iterdir()] == ["a.json"]


@pytest.fixture
def place(tmp_path):
    """A run directory with two checkpoints and what was made of the first one."""
    place = RunDir(tmp_path / "run")
    for step in (8, 9):
        (place.checkpoint(step) / "model").mkdir(parents=True)
        (place.checkpoint(step) / "model" / "weights").write_bytes(b"1234")
        (place.checkpoint(step) / "state.json").write_text("{}")
    chosen = {"global_step": 8, "identity": identify(place.checkpoint(8))}
    write_json(place.result(8), {"checkpoint": chosen["identity"]})
    write_json(place.best, chosen)
    write_json(place.gate, {**chosen, "verdict": "pass"})
    return place


def train_anew(place, step):
    path = place.checkpoint(step) / "state.json"
    time = path.stat().st_mtime_ns
    os.utime(path, ns=(time + 1000, time + 1000))


def test_a_checkpoint_that_was_moved_with_its_times_is_the_same(place, tmp_path):
    copy = shutil.copytree(place.checkpoint(8), tmp_path / "elsewhere" / "model.ckpt-8")

    assert identify(copy) == identify(place.checkpoint(8))


@pytest.mark.parametrize("name", ["state.json", "model/weights"])
def test_a_checkpoint_with_a_file_written_anew_is_another_though_its_bytes_are_equal(place, name):
    path = place.checkpoint(8) / name
    before, time = identify(place.checkpoint(8)), path.stat().st_mtime_ns
    os.utime(path, ns=(time + 1000, time + 1000))

    assert identify(place.checkpoint(8)) != before


def test_no_checkpoint_is_an_error(tmp_path):
    with pytest.raises(ValueError, match=r"there is no checkpoint .*model\.ckpt-9"):
        identify(tmp_path / "model.ckpt-9")


def found(place):
    return [content is not None for content in (place.read_result(8), place.read_best(),
                                                place.read_gate())]  # fmt: skip


def test_what_was_made_of_a_checkpoint_counts_until_another_training_replaces_it(place):
    assert found(place) == [True, True, True]
    train_anew(place, 9)
    assert found(place) == [True, True, True]
    train_anew(place, 8)
    assert found(place) == [False, False, False]


def test_what_was_made_of_a_checkpoint_that_is_gone_counts_only_if_all_are(place):
    shutil.rmtree(place.checkpoint(8))
    assert found(place) == [False, False, False]
    shutil.rmtree(place.checkpoint(9))
    assert found(place) == [True, True, True]


@pytest.mark.parametrize("step", [8, 9])
def test_a_verdict_on_another_choice_does_not_count(place, step):
    train_anew(place, 8)
    chosen = {"global_step": step, "identity": identify(place.checkpoint(step))}
    write_json(place.best, chosen)  # and then select_best is killed

    assert place.read_best() == chosen
    assert place.read_gate() is None
