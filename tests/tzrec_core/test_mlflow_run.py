import logging
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tzrec_core import mlflow_run
from tzrec_core.mlflow_run import PARENT_TAG, PIPELINE_RUN_TAG, metric_name, track


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A sqlite store that the tests share, because making one takes seconds."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return MlflowClient()


def pipeline_step(stage, experiment, *, last=False, pipeline_run_id="run-1"):
    return track(
        stage,
        experiment=experiment,
        name=f"{stage} · deepfm",
        identity={PIPELINE_RUN_TAG: pipeline_run_id},
        parent_name="deepfm · 1000 steps",
        last=last,
    )


def runs_of(client, experiment):
    """Returns the runs by stage; fails if a stage has several."""
    runs = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    by_stage = {run.data.tags["stage"]: run for run in runs}
    assert len(by_stage) == len(runs)
    return by_stage


def values(client, run_id, name):
    return [(m.step, m.value) for m in client.get_metric_history(run_id, name)]


def test_steps_of_a_pipeline_run_are_nested_in_one_parent_which_the_last_one_ends(client):
    with pipeline_step("train", "nested"):
        during = runs_of(client, "nested")
    with pipeline_step("export", "nested", last=True):
        before_end = runs_of(client, "nested")
    after = runs_of(client, "nested")

    assert {stage: run.info.status for stage, run in during.items()} == {
        "pipeline": "RUNNING", "train": "RUNNING",
    }  # fmt: skip
    assert before_end["pipeline"].info.status == "RUNNING"
    assert {stage: run.info.status for stage, run in after.items()} == {
        "pipeline": "FINISHED", "train": "FINISHED", "export": "FINISHED",
    }  # fmt: skip
    parent = after["pipeline"].info.run_id
    assert after["train"].data.tags[PARENT_TAG] == parent
    assert after["export"].data.tags[PARENT_TAG] == parent
    assert PARENT_TAG not in after["pipeline"].data.tags
    assert after["pipeline"].info.run_name == "deepfm · 1000 steps"
    assert all(run.data.tags[PIPELINE_RUN_TAG] == "run-1" for run in after.values())


def test_another_pipeline_run_gets_runs_of_its_own(client):
    for pipeline_run_id in ("run-1", "it's run 2"):
        with pipeline_step("train", "two", pipeline_run_id=pipeline_run_id):
            pass

    experiment_id = client.get_experiment_by_name("two").experiment_id
    assert len(client.search_runs([experiment_id])) == 4


def test_a_step_that_failed_is_marked_and_its_retry_continues_the_same_runs(client):
    with pytest.raises(RuntimeError, match="boom"), pipeline_step("train", "retry"):
        raise RuntimeError("boom")
    failed = runs_of(client, "retry")
    with pipeline_step("train", "retry"):
        during = runs_of(client, "retry")
    finished = runs_of(client, "retry")

    assert {run.info.status for run in failed.values()} == {"FAILED"}
    assert {run.info.status for run in during.values()} == {"RUNNING"}
    assert finished["train"].info.status == "FINISHED"
    assert finished["train"].info.run_id == failed["train"].info.run_id


def test_a_step_that_is_told_to_stop_is_marked_killed(client):
    with pytest.raises(SystemExit), pipeline_step("train", "stopped"):
        sys.exit(143)

    assert {run.info.status for run in runs_of(client, "stopped").values()} == {"KILLED"}


def test_runs_that_sigkill_left_running_are_ended_by_the_retry(client):
    killed = (
        "import os, signal\n"
        "from tzrec_core.mlflow_run import track\n"
        f"with track('train', experiment='sigkill', name='train', parent_name='parent',\n"
        f"           identity={{'{PIPELINE_RUN_TAG}': 'run-1'}}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", killed]).returncode == -signal.SIGKILL
    left = runs_of(client, "sigkill")
    with pipeline_step("train", "sigkill", last=True):
        pass
    repaired = runs_of(client, "sigkill")

    assert {run.info.status for run in left.values()} == {"RUNNING"}
    assert {run.info.status for run in repaired.values()} == {"FINISHED"}
    assert all(run.info.end_time >= run.info.start_time for run in repaired.values())


def test_an_injected_run_is_logged_into_and_left_running(client, monkeypatch):
    experiment_id = client.create_experiment("injected")
    parent = client.create_run(experiment_id, run_name="kubeflow's").info.run_id
    nested = client.create_run(experiment_id, tags={PARENT_TAG: parent}).info.run_id
    name = client.get_run(nested).info.run_name
    monkeypatch.setenv("MLFLOW_RUN_ID", nested)

    with pipeline_step("train", "not made", last=True) as run:
        run.rename("ours")
        run.log_metrics({"auc": 0.5}, prefix="eval")

    assert run.run_id == nested
    assert os.environ["MLFLOW_RUN_ID"] == nested  # for child processes
    assert client.get_experiment_by_name("not made") is None
    assert len(client.search_runs([experiment_id])) == 2
    for run_id in (parent, nested):
        assert client.get_run(run_id).info.status == "RUNNING"
        assert values(client, run_id, "eval/auc") == [(0, 0.5)]
    assert client.get_run(nested).info.run_name == name


def test_a_run_without_parent_stands_alone(client):
    identity = {"model_dir": "/data/x"}
    for _ in range(2):
        with track("train", experiment="alone", name="train x", identity=identity):
            pass

    assert runs_of(client, "alone").keys() == {"train"}


def test_what_a_step_tells_is_on_its_run_and_on_the_parent(client, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.txt").write_text("a")
    (tmp_path / "b.txt").write_text("b")

    with pipeline_step("train", "told") as run:
        run.rename("train · deepfm · 1000 steps")
        run.log_params({"batch_size": 2048, "long": "x" * 10_000, "odd@name": 1})
        run.set_tags({"best.step": 10, "long": "x" * 10_000})
        run.log_metrics({"auc": 0.5, "nan": math.nan, "inf": math.inf}, prefix="eval", step=10)
        run.log_artifact(tmp_path / "folder", "export")
        run.log_artifact(tmp_path / "b.txt", "config")
        page = run.page()

    runs = runs_of(client, "told")
    for told in runs.values():
        assert told.data.params == {
            "batch_size": "2048", "long": "x" * 6000, "odd_at_name": "1",
        }  # fmt: skip
        assert told.data.tags["best.step"] == "10"
        assert told.data.tags["long"] == "x" * 8000
        assert told.data.metrics == {"eval/auc": 0.5}
    assert runs["train"].info.run_name == "train · deepfm · 1000 steps"
    artifacts = [
        [file.path for file in client.list_artifacts(runs["train"].info.run_id, folder)]
        for folder in ("export", "config")
    ]
    assert artifacts == [["export/a.txt"], ["config/b.txt"]]
    parent = runs["pipeline"].info
    assert page == (
        f"#/experiments/{parent.experiment_id}/runs/{parent.run_id}?workflowType=machine_learning"
    )


def test_artifacts_lie_beside_a_sqlite_store(client, store, tmp_path):
    (tmp_path / "a.txt").write_text("a")
    with pipeline_step("train", "beside") as run:
        run.log_artifact(tmp_path / "a.txt", "config")

    folder = Path(store.removeprefix("sqlite:///")).parent / "mlartifacts"
    assert [path.read_text() for path in folder.glob(f"{run.run_id}/artifacts/config/a.txt")] == [
        "a"
    ]


def test_a_repeated_step_adds_no_point_twice_and_changes_no_parameter(client):
    for attempt in range(2):
        with pipeline_step("evaluate", "repeated") as run:
            run.log_params({"rows": 100 + attempt})
            run.log_metrics({"auc": 0.5}, prefix="eval", step=10)
            run.log_metrics({"auc": 0.6 + attempt / 10}, prefix="eval", step=20)

    for told in runs_of(client, "repeated").values():
        assert told.data.params == {"rows": "100"}
        points = values(client, told.info.run_id, "eval/auc")
        assert sorted(points) == [(10, 0.5), (20, 0.6), (20, 0.7)]


@pytest.mark.parametrize(
    ("prefix", "name", "expected"),
    [
        ("train", "loss/total", "train/loss_total"),
        ("train", "metric/auc", "train/auc"),
        ("train", "lr/g0", "train/lr_g0"),
        ("eval", "recall@5", "eval/recall_at_5"),
        ("data", "auc(x)=a|b", "data/auc_x__a_b"),
    ],
)
def test_names_are_grouped_by_prefix(prefix, name, expected):
    assert metric_name(prefix, name) == expected


def test_every_printable_character_makes_a_name_that_mlflow_accepts(client):
    names = [f"a{chr(code)}b" for code in range(32, 127)]
    with pipeline_step("train", "names") as run:
        run.log_metrics(dict.fromkeys(names, 1.0), prefix="eval")
        run.log_metrics({"x" * 300: 1.0}, prefix="eval")

    metrics = client.get_run(run.run_id).data.metrics
    assert metrics.keys() == {metric_name("eval", name) for name in [*names, "x" * 300]}


def test_nothing_is_tracked_and_mlflow_is_not_imported_unless_the_environment_names_it():
    code = (
        "import sys\n"
        "from tzrec_core.mlflow_run import track\n"
        "with track('train', experiment='x', name='x', identity={}) as run:\n"
        "    run.rename('x'); run.log_params({'a': 1}); run.set_tags({'a': 1})\n"
        "    run.log_metrics({'a': 1}, prefix='x'); run.log_artifact('none', 'x')\n"
        "    assert run.run_id is None and run.page() == ''\n"
        "assert not any(name.split('.')[0] == 'mlflow' for name in sys.modules)"
    )
    env = {k: v for k, v in os.environ.items() if not k.startswith("MLFLOW_")}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


@pytest.mark.parametrize("injected", [False, True])
def test_a_dead_server_costs_warnings_and_little_time(monkeypatch, caplog, injected):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")  # nothing listens there
    if injected:
        monkeypatch.setenv("MLFLOW_RUN_ID", "0" * 32)
    else:
        monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    started = time.monotonic()

    with caplog.at_level(logging.WARNING), pipeline_step("train", "dead") as run:
        for _ in range(20):
            run.log_metrics({"auc": 0.5}, prefix="eval")

    assert time.monotonic() - started < 15
    warnings = [r for r in caplog.records if r.name == mlflow_run.log.name]
    assert len(warnings) == 1


def test_what_is_attempted_gives_its_result_or_a_warning(client, monkeypatch, caplog):
    def name(client, run_id):
        return client.get_run(run_id).info.run_name

    def fail(client, run_id):
        raise RuntimeError("no such thing")

    with pipeline_step("export", "attempts") as run:
        assert run.attempt(name) == "export · deepfm"
        with caplog.at_level(logging.WARNING):
            assert run.attempt(fail) is None
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    with pipeline_step("export", "attempts") as untracked:
        assert untracked.attempt(name) is None

    assert "no such thing" in caplog.text
    assert runs_of(client, "attempts")["export"].info.status == "FINISHED"


def test_a_store_that_breaks_in_the_middle_does_not_fail_the_step_nor_hide_its_error(
    tmp_path, client, caplog
):
    def step():
        with pipeline_step("train", "breaks") as run:
            for _ in range(20):  # a file that is not there cannot be uploaded
                run.log_artifact(tmp_path / "none", "config")
            raise RuntimeError("the step's own")

    with caplog.at_level(logging.WARNING), pytest.raises(RuntimeError, match="the step's own"):
        step()

    warnings = [r for r in caplog.records if r.name == mlflow_run.log.name]
    assert len(warnings) == 1
    assert runs_of(client, "breaks")["train"].info.status == "FAILED"


def test_a_warning_shows_no_credentials(caplog):
    mlflow_run.warn_unavailable(RuntimeError("no answer of https://me:se@cret@host:5000/api/x"))

    assert "https://host:5000/api/x" in caplog.text
    assert "cret" not in caplog.text
