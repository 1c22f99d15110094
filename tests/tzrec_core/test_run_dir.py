import pytest

from tzrec_core.checkpoints import checkpoint
from tzrec_core.run_dir import RunDir, RunInfo, write_json
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
