"""The compiled pipeline, run by kfp.local as a user runs it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core import eval_result
from tzrec_core.run_dir import RunDir

STEPS = ("prepare-data", "train", "evaluate", "select-best", "export")


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """A run whose MLflow server does not answer, and the folder it was started in.

    Two ranks train, and two steps evaluate a part of the checkpoints each.
    """
    folder = tmp_path_factory.mktemp("pipeline")
    write_click_logs(folder / "clicks" / "part-0.parquet", num_rows=1500, seed=0)
    write_click_logs(folder / "clicks" / "part-1.parquet", num_rows=1500, seed=1)
    (folder / "small.config").write_text(CONFIG)
    env = {**os.environ, "MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "OMP_NUM_THREADS": "1"}
    env.pop("MLFLOW_RUN_ID", None)
    edits = {"train_config.save_checkpoints_steps": 5, "data_config.batch_size": 100}
    command = [
        sys.executable, "-m", "pipelines", "run", "pipeline_config=small.config",
        "train_input_path=clicks", "eval_fraction=0.2", "split_by=hash:user_id",
        "num_processes=2", f"edit_config_json={json.dumps(edits)}", "evaluation_parts=[0, 1]",
    ]  # fmt: skip
    process = subprocess.run(
        command, cwd=folder, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    assert process.returncode == 0, process.stdout
    return folder, process.stdout


@pytest.fixture
def run_dir(ended):
    """The run's directory, which was named for it."""
    (path,) = (ended[0] / "runs").iterdir()
    return RunDir(path)


@pytest.fixture
def outputs(run_dir):
    """What KFP got from each step; of evaluate, from both."""
    found = {}
    for path in sorted((run_dir.path / "kfp").rglob("executor_output.json")):
        found.setdefault(path.parent.name, []).append(json.loads(path.read_text()))
    assert {step: len(got) for step, got in found.items()} == {
        step: 2 if step == "evaluate" else 1 for step in STEPS
    }
    return found


@pytest.fixture
def artifacts(outputs):
    """The metadata of every artifact that KFP got, by step and name."""
    return {
        step: {name: a["artifacts"][0]["metadata"] for name, a in got[-1]["artifacts"].items()}
        for step, got in outputs.items()
    }


def test_every_row_was_trained_or_evaluated_on(artifacts):
    statistics = artifacts["prepare-data"]["statistics"]

    assert statistics["train_rows"] + statistics["eval_rows"] == 3000
    assert 0 < statistics["eval_rows"] < 1500
    # 100 rows a rank and step: fewer steps than rows / 100 show that two ranks shared the rows.
    num_steps = artifacts["train"]["checkpoints"]["step"]
    assert statistics["train_rows"] / 200 <= num_steps < statistics["train_rows"] / 100


def test_parameters_go_from_step_to_step(run_dir, outputs):
    (prepared,), (trained,) = outputs["prepare-data"], outputs["train"]

    assert prepared["parameterValues"] == {"resolved_run_dir": str(run_dir.path)}
    assert trained["parameterValues"] == {"checkpoint_step": run_dir.checkpoint_steps()[-1]}


def test_the_chosen_one_of_all_checkpoints_is_exported(run_dir, artifacts):
    results = eval_result.read(run_dir.eval_result)
    best = max(results, key=lambda result: result.metrics["grouped_auc"])
    choice = json.loads(run_dir.best.read_text())
    (chosen,) = [result for result in results if result.step == choice["global_step"]]

    assert [result.step for result in results] == run_dir.checkpoint_steps()
    assert len(results) >= 2
    # A near tie of the best one is chosen if it is earlier.
    assert chosen.step <= best.step
    near_tie = f"do not differ at 95% confidence from step {best.step}"
    assert chosen == best or near_tie in choice["reason"]
    assert artifacts["export"]["model"]["checkpoint"] == f"model.ckpt-{chosen.step}"
    assert artifacts["select-best"]["metrics"] == chosen.metrics
    assert chosen.metrics["auc"] > 0.6
    torch.jit.load(str(run_dir.export / "scripted_model.pt"))


def test_the_reports_are_what_kfp_shows(run_dir):
    for name, file in (("report", "index.html"), ("summary", "summary.md")):
        (page,) = (run_dir.path / "kfp").rglob(f"select-best/{name}")
        shown = page.read_text()
        assert shown == (run_dir.report / file).read_text()


def test_the_run_ends_with_its_metrics_and_where_everything_is(ended, run_dir):
    folder, output = ended
    where = run_dir.path.relative_to(folder)

    assert f"everything is in {where}" in output
    assert f"exported model  {where}/export" in output
    assert "grouped_auc" in output[output.rindex("the largest grouped_auc") :]


def test_mlflow_that_does_not_answer_is_said_once_a_process(ended):
    warnings = [line for line in ended[1].splitlines() if "MLflow could not be used" in line]

    # Training is a process of its own, and evaluate runs twice.
    assert len(warnings) == len(STEPS) + 2


def test_nothing_was_written_outside_the_run_directory(ended):
    names = {path.name for path in Path(ended[0]).iterdir()}

    assert names == {"clicks", "small.config", "runs"}


def test_settings_that_only_a_cluster_knows_are_ignored_without_a_word(ended):
    assert "have no effect" not in ended[1]
    assert "Warning" not in ended[1]
