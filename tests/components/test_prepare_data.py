"""Where a run directory is that nobody has named."""

import pytest

from components.prepare_data.step import prepare_data
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core.run_dir import RunDir


@pytest.fixture
def inputs(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    data = write_click_logs(tmp_path / "clicks.parquet", num_rows=100, seed=0)
    (tmp_path / "small.config").write_text(CONFIG)
    return {
        "pipeline_config": str(tmp_path / "small.config"),
        "train_input_path": str(data),
    }


def test_a_run_without_a_run_dir_gets_one_that_all_its_tries_find(inputs, tmp_path, monkeypatch):
    monkeypatch.setenv("TZREC_RUNS", str(tmp_path / "runs"))
    told = [prepare_data(run_dir="", pipeline_run_id="run-7", **inputs) for _ in range(2)]
    other = prepare_data(run_dir="", **inputs)["resolved_run_dir"]

    assert told[0] == told[1]
    assert told[0]["resolved_run_dir"] == str(tmp_path / "runs" / "run-7")
    assert RunDir(told[0]["resolved_run_dir"]).read_info().pipeline_run_id == "run-7"
    assert RunDir(other).path.parent == tmp_path / "runs"
    assert RunDir(other).path.name == RunDir(other).read_info().pipeline_run_id


def test_a_run_dir_that_is_named_is_used_and_told_as_an_absolute_path(
    inputs, tmp_path, monkeypatch
):
    monkeypatch.setenv("TZREC_RUNS", str(tmp_path / "runs"))
    monkeypatch.chdir(tmp_path)

    told = prepare_data(run_dir="mine", pipeline_run_id="run-7", **inputs)

    assert told["resolved_run_dir"] == str(tmp_path / "mine")
    assert not (tmp_path / "runs").exists()


def test_without_a_place_for_run_directories_one_must_be_named(inputs, monkeypatch):
    monkeypatch.delenv("TZREC_RUNS", raising=False)

    with pytest.raises(ValueError, match="run_dir is empty"):
        prepare_data(run_dir="", pipeline_run_id="run-7", **inputs)
