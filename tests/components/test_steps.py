"""The steps one after the other over one run directory, with a real MLflow store."""

import hashlib
import itertools
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import mlflow.pyfunc
import pyarrow.parquet as pq
import pytest
import torch
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from components import experiments, prepared, steps
from components.evaluate.step import deal
from components.steps import StepFailedError
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core import eval_result
from tzrec_core.evaluation.predictions import read_predictions
from tzrec_core.exporting.scorer import Scorer
from tzrec_core.run_dir import RunDir, identify, write_json

STAGES = ("prepare_data", "train", "evaluate", "select_best", "export")


class Run:
    """A run directory and what the steps returned for it."""

    def __init__(self, folder: Path) -> None:
        self.place = RunDir(folder / "run")
        self.config = folder / "small.config"
        self.data = write_click_logs(folder / "clicks.parquet", num_rows=3000, seed=0)
        self.config.write_text(CONFIG)

    def prepare(self, **parameters):
        return self.step(
            "prepare_data",
            **{
                "pipeline_config": str(self.config), "train_input_path": str(self.data),
                "eval_fraction": 0.2, "experiment": "steps", **parameters,
            },
        )  # fmt: skip

    def step(self, name, **parameters):
        return steps.load(name)(run_dir=str(self.place.path), **parameters)

    def all_steps(self):
        prepared, trained = self.prepare(), self.step("train")
        evaluated, selected = self.step("evaluate"), self.step("select_best")
        exported = self.step("export", checkpoint=selected["checkpoint"])
        return {**prepared, **trained, **evaluated, "chosen": selected, **exported}


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run, its outputs, and the client of the store it was tracked in."""
    folder = tmp_path_factory.mktemp("steps")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        run = Run(folder)
        yield run, run.all_steps(), MlflowClient()


def files(folder):
    """Returns when each file below a folder was written."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def runs_by_name(client):
    experiment = client.get_experiment_by_name("steps").experiment_id
    runs = client.search_runs([experiment], "tags.stage != 'x'")
    return {run.data.tags["stage"]: run for run in runs}, len(runs)


def test_every_checkpoint_has_the_result_that_training_found_for_it(finished):
    run, outputs, _ = finished
    results = eval_result.read(run.place.eval_result)
    in_training = eval_result.read(run.place.train_eval_result)

    assert [result.step for result in results] == run.place.checkpoint_steps()
    assert len(results) >= 2
    for result, expected in zip(results, in_training, strict=True):
        assert result.step == expected.step
        assert result.metrics == pytest.approx(dict(expected.metrics), abs=1e-6)
    assert outputs["checkpoints"]["step"] == results[-1].step


def test_the_checkpoint_with_the_largest_metric_is_chosen_and_exported(finished):
    run, outputs, _ = finished
    results = eval_result.read(run.place.eval_result)
    largest = max(results, key=lambda result: result.metrics["grouped_auc"])
    model = run.place.export / "scripted_model.pt"

    assert outputs["chosen"]["step"] == largest.step
    assert outputs["chosen"]["metrics"] == largest.metrics
    assert outputs["model"]["checkpoint"] == f"model.ckpt-{largest.step}"
    assert outputs["model"]["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    signature = json.loads((run.place.export / "signature.json").read_text())
    assert signature["global_step"] == largest.step
    torch.jit.load(str(model))


def test_the_exported_config_encodes_raw_rows_as_the_users_did(finished):
    run, _, _ = finished

    for config in (run.place.config, run.place.export / "pipeline.config"):
        assert "FG_DAG" in config.read_text()


def test_kfp_gets_the_roc_curve_and_the_metrics_of_the_chosen_checkpoint(finished):
    run, outputs, _ = finished
    best = outputs["chosen"]["step"]
    scored = read_predictions(run.place.predictions(best), key=None)
    points = outputs["chosen"]["roc"]["confidenceMetrics"]
    area = sum(
        (b["falsePositiveRate"] - a["falsePositiveRate"]) * (a["recall"] + b["recall"]) / 2
        for a, b in itertools.pairwise(points)
    )

    exact = roc_auc_score(scored.tensor("click"), scored.tensor("probs"))
    assert area == pytest.approx(exact, abs=2e-3)
    metrics = outputs["chosen"]["metrics"]
    assert metrics["auc"] == pytest.approx(exact, abs=2e-2)  # from 200 thresholds
    pages = {"report": None, "summary": None}
    json.dumps(outputs | {"chosen": outputs["chosen"] | pages}, allow_nan=False)


def test_mlflow_has_one_run_for_each_step_and_everything_on_the_parent(finished):
    run, outputs, client = finished
    by_stage, num_runs = runs_by_name(client)
    parent = by_stage["pipeline"]

    assert by_stage.keys() == {"pipeline", *STAGES}
    assert num_runs == 6
    assert {told.info.status for told in by_stage.values()} == {"FINISHED"}
    epochs = "multi_tower · 1 epoch"
    assert {stage: told.info.run_name for stage, told in by_stage.items()} == {
        "pipeline": f"{epochs} · run",
        "prepare_data": f"prepare_data · {outputs['statistics']['train_rows']} rows",
        "train": f"train · {epochs}",
        "evaluate": f"evaluate · {len(run.place.checkpoint_steps())} checkpoints",
        "select_best": f"select_best · step {outputs['chosen']['step']}",
        "export": f"export · {outputs['model']['checkpoint']}",
    }
    metrics = parent.data.metrics
    system = {"samples_per_second", "data_wait_share", "memory_host_gib", "memory_host_peak_gib"}
    assert {name for name in metrics if name.startswith("system/")} == {
        f"system/{name}" for name in system
    }
    assert {"eval/grouped_auc", "train/loss_total", "train/lr_g0"} <= metrics.keys()
    assert metrics["data/train_rows"] + metrics["data/eval_rows"] == 3000
    assert metrics["best/auc"] == outputs["chosen"]["metrics"]["auc"]
    assert parent.data.params["sparse_lr"] == "0.1"
    curve = client.get_metric_history(parent.info.run_id, "eval/auc")
    assert sorted({point.step for point in curve}) == run.place.checkpoint_steps()


def test_mlflow_has_config_results_and_export_as_artifacts(finished):
    run, _, client = finished
    by_stage, _ = runs_by_name(client)

    def artifacts(stage):
        run_id = by_stage[stage].info.run_id
        folders = [folder.path for folder in client.list_artifacts(run_id)]
        return {file.path for f in folders for file in client.list_artifacts(run_id, f)}

    assert artifacts("prepare_data") == {"config/pipeline.config", "data/_stats.json"}
    assert artifacts("train") == {"config/pipeline.config", "eval/train_eval_result.txt"}
    results = {f"eval/step-{step}.json" for step in run.place.checkpoint_steps()}
    assert artifacts("evaluate") == results
    report = {f"report/{path.name}" for path in run.place.report.iterdir()}
    assert artifacts("pipeline") == {"export/model_card.md", *report}
    assert artifacts("select_best") == {"eval/eval_result.txt", "eval/best.json", "eval/gate.json"}
    assert {"report/index.html", "report/summary.md", "report/per_group.parquet"} <= report
    assert artifacts("export") == {
        f"export/{name}" for name in (
            "drift_reference.json", "export.json", "features.json", "model_card.md",
            "pipeline.config", "signature.json",
        )
    }  # fmt: skip


def test_the_export_is_a_champion_in_the_registry_that_scores_raw_rows(finished):
    run, outputs, client = finished
    model = outputs["model"]
    version = client.get_model_version("steps", model["registered_version"])
    by_stage, _ = runs_by_name(client)
    rows = pq.read_table(run.data).slice(0, 100)

    scores = mlflow.pyfunc.load_model("models:/steps@champion").predict(rows.to_pandas())

    expected = Scorer(run.place.export).score(rows)["probs"]
    assert scores["probs"].tolist() == expected.tolist()
    assert (model["registered_model"], model["registered_version"]) == ("steps", "1")
    assert model["registered_alias"] == by_stage["pipeline"].data.tags["registered.alias"]
    assert version.run_id == by_stage["export"].info.run_id
    assert version.tags["export.sha256"] == model["sha256"]
    assert version.description.startswith(f"# steps, step {outputs['chosen']['step']}\n")


def test_the_page_of_the_run_begins_with_what_there_is_to_know(finished):
    run, outputs, client = finished
    by_stage, _ = runs_by_name(client)
    parent = by_stage["pipeline"]
    note = parent.data.tags["mlflow.note.content"]
    step, fingerprint = outputs["chosen"]["step"], outputs["dataset"]["fingerprint"]
    found = json.loads(run.place.result(step).read_text())["metrics"]["auc"]
    rows = outputs["statistics"]

    assert note.startswith("**multi_tower · 1 epoch** on ")
    assert f"{rows['train_rows']:,} training rows, {rows['eval_rows']} evaluation rows" in note
    assert f"(data `{fingerprint}`)" in note
    assert f"Chosen: **step {step}**, the " in note
    value, low, high = (f"{found[key]:.4f}" for key in ("value", "low", "high"))
    assert f"| auc | {value} | {low} to {high} |" in note
    assert "Gate: **pass**; no gate is configured." in note
    registered = "[steps version 1](#/models/steps/versions/1) (`champion`)"
    assert f"Exported: {registered} of step {step}" in note
    page = f"#/experiments/{parent.info.experiment_id}/runs/{parent.info.run_id}"
    assert f"[report]({page}/artifacts/report/index.html?" in note


def test_the_model_card_has_the_data_the_metrics_and_the_curve(finished):
    run, outputs, _ = finished
    card = (run.place.export / "model_card.md").read_text()

    assert f"| train rows | {outputs['statistics']['train_rows']:,} |" in card
    assert run.place.prepared_data().name in card
    assert f"| auc | {outputs['chosen']['metrics']['auc']:.4f} |" in card
    for step in run.place.checkpoint_steps():
        assert f"| {step} | " in card


def test_kfp_gets_the_size_and_the_speed_of_the_model(finished):
    run, outputs, client = finished
    model = outputs["model"]
    by_stage, _ = runs_by_name(client)

    assert model["bytes"] == (run.place.export / "scripted_model.pt").stat().st_size
    assert 0 < model["p50_ms_1_rows"] <= model["p99_ms_1_rows"]
    assert model["embedding_precision"] == "FP32"
    metrics = by_stage["pipeline"].data.metrics
    assert metrics["export/p50_ms_1024_rows"] == model["p50_ms_1024_rows"]
    assert metrics["export/bytes"] == model["bytes"]


def test_an_alias_is_champion_or_challenger(finished):
    run, outputs, _ = finished

    with pytest.raises(ValueError, match="alias must be champion, challenger or empty, got 'best'"):
        run.step("export", checkpoint=outputs["chosen"]["checkpoint"], alias="best")


def test_mlflow_knows_code_config_data_and_checkpoints(finished):
    run, outputs, client = finished
    by_stage, _ = runs_by_name(client)
    fingerprint = outputs["dataset"]["fingerprint"]
    config = hashlib.sha256(run.place.config.read_bytes()).hexdigest()

    for stage in ("prepare_data", "train"):
        assert by_stage[stage].data.tags["config.sha256"] == config
    assert by_stage["pipeline"].data.tags["config.sha256"] == config
    used = {
        stage: {(i.dataset.name, i.dataset.digest) for i in by_stage[stage].inputs.dataset_inputs}
        for stage in ("pipeline", "prepare_data", "train", "evaluate")
    }
    train, eval_ = ("train", fingerprint), ("eval", fingerprint)
    both = {train, eval_}
    assert used == {
        "pipeline": both, "prepare_data": both, "train": {train}, "evaluate": {eval_},
    }  # fmt: skip
    experiment = client.get_experiment_by_name("steps")
    assert "TZRec" in experiment.tags["mlflow.note.content"]
    models = client.search_logged_models([experiment.experiment_id])
    listed = {m.tags["path"]: m for m in models if m.model_type == "checkpoint"}
    results = {r.step: r.metrics for r in eval_result.read(run.place.eval_result)}
    assert set(listed) == {str(run.place.checkpoint(step)) for step in results}
    assert len(listed) == len([m for m in models if m.model_type == "checkpoint"])
    for step, metrics in results.items():
        found = {m.key: m.value for m in listed[str(run.place.checkpoint(step))].metrics}
        assert found == {f"eval/{name}": value for name, value in metrics.items()}


def test_steps_that_run_again_find_their_work_and_do_not_repeat_it(finished):
    run, outputs, client = finished
    folders = [run.place.data, *run.place.checkpoints.glob("model.ckpt-*"), run.place.export]
    before = [files(folder) for folder in folders]
    results = run.place.eval_result.read_text()

    again = run.all_steps()

    assert again == outputs
    assert [files(folder) for folder in folders] == before
    assert run.place.eval_result.read_text() == results
    by_stage, num_runs = runs_by_name(client)
    assert num_runs == 6
    for told in by_stage.values():
        for name in told.data.metrics:
            points = client.get_metric_history(told.info.run_id, name)
            assert len({(point.step, point.value) for point in points}) == len(points)


def test_an_evaluation_that_was_interrupted_goes_on_where_it_stopped(finished, tmp_path):
    run, outputs, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    first, *others = copy.place.checkpoint_steps()
    found = json.loads(copy.place.result(first).read_text())
    found["metrics"]["auc"]["value"] = 0.1
    copy.place.result(first).write_text(json.dumps(found))
    copy.place.result(others[0]).unlink()

    again = copy.step("evaluate")

    before, after = (
        {r.step: r.metrics for r in eval_result.read(place.eval_result)}
        for place in (run.place, copy.place)
    )
    assert after[first] == {**before[first], "auc": 0.1}
    assert {step: after[step] for step in others} == {step: before[step] for step in others}
    assert again["evaluation"]["checkpoints"] == outputs["evaluation"]["checkpoints"]


@pytest.fixture
def fanned_out(finished, tmp_path):
    """A run whose checkpoints two processes have evaluated at the same time, and what they said."""
    run, _, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    shutil.rmtree(copy.place.evaluation)
    copy.place.write_info(replace(copy.place.read_info(), pipeline_run_id="parts"))
    with experiments.track(
        "prepare_data", copy.place, copy.place.read_info(), prepared.load(copy.place)
    ):
        pass  # makes the run of the pipeline
    command = [sys.executable, "-m", "components.cli", "evaluate", "--parts=[0, 1]"]
    processes = [
        subprocess.Popen([*command, f"--run_dir={copy.place.path}", f"--part={part}"],
                         stdout=subprocess.PIPE, text=True)
        for part in (0, 1)
    ]  # fmt: skip
    said = [process.communicate()[0].rpartition('{\n "evaluation"') for process in processes]
    parts = [json.loads("".join(end)) for _, *end in said]
    return copy, [part["evaluation"]["checkpoints"] for part in parts]


def test_parts_that_evaluate_at_the_same_time_find_what_one_process_finds(finished, fanned_out):
    run, outputs, client = finished
    copy, numbers = fanned_out
    results = {path.name: path.read_text() for path in run.place.evaluation.glob("step-*.json")}
    steps_ = copy.place.checkpoint_steps()

    assert numbers == [len(steps_[::2]), len(steps_[1::2])]
    assert not copy.place.eval_result.exists()
    assert {p.name: p.read_text() for p in copy.place.evaluation.glob("step-*.json")} == results
    assert copy.step("select_best")["step"] == outputs["chosen"]["step"]
    assert copy.place.eval_result.read_text() == run.place.eval_result.read_text()
    experiment = client.get_experiment_by_name("steps").experiment_id
    found = client.search_runs([experiment], "tags.`kfp.pipeline_run_id` = 'parts'")
    parts = [told for told in found if told.data.tags["stage"] == "evaluate"]
    (parent,) = [told for told in found if told.data.tags["stage"] == "pipeline"]
    assert sorted(told.info.run_name for told in parts) == [
        f"evaluate · part {part + 1} of 2 · {experiments.counted(number, 'checkpoint')}"
        for part, number in enumerate(numbers)
    ]
    assert {told.info.status for told in parts} == {"FINISHED"}
    curve = client.get_metric_history(parent.info.run_id, "eval/auc")
    assert sorted(point.step for point in curve) == steps_
    copy.step("evaluate", part=1, parts=[0, 1])  # again, as a pod that was lost
    assert len(client.search_runs([experiment], "tags.`kfp.pipeline_run_id` = 'parts'")) == 5


@pytest.mark.parametrize("num_steps", range(8))
@pytest.mark.parametrize("parts", [[0], [0, 1, 2], [5, 3]])
def test_parts_share_all_checkpoints_evenly(num_steps, parts):
    all_steps = list(range(10, 10 + num_steps))
    dealt = [deal(all_steps, part=part, parts=parts) for part in parts]

    assert sorted(itertools.chain(*dealt)) == all_steps
    assert max(map(len, dealt)) - min(map(len, dealt)) <= 1


@pytest.mark.parametrize(("part", "parts"), [(1, [0]), (0, []), (0, [0, 0])])
def test_a_part_must_be_one_of_the_parts(finished, part, parts):
    run, _, _ = finished

    with pytest.raises(ValueError, match="part must be once in parts, got part"):
        run.step("evaluate", part=part, parts=parts)


def test_only_so_many_of_the_newest_checkpoints_are_evaluated_as_are_asked_for(finished, tmp_path):
    run, _, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    shutil.rmtree(copy.place.evaluation)

    copy.step("evaluate", num_checkpoints=1)

    last = run.place.checkpoint_steps()[-1]
    assert [result.step for result in eval_result.read(copy.place.eval_result)] == [last]
    assert [path.name for path in copy.place.evaluation.glob("step-*")] == [f"step-{last}.json"]
    for wrong in ({"num_checkpoints": -1}, {"num_processes": 0}):
        with pytest.raises(ValueError, match="must be at least"):
            copy.step("evaluate", **wrong)


def test_an_export_of_another_checkpoint_takes_the_place_of_the_old_one(finished, tmp_path):
    run, outputs, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    other = next(s for s in run.place.checkpoint_steps() if s != outputs["chosen"]["step"])

    exported = copy.step("export", checkpoint=str(copy.place.checkpoint(other)))["model"]

    assert exported["checkpoint"] == f"model.ckpt-{other}"
    assert exported["sha256"] != outputs["model"]["sha256"]
    assert {path.name for path in copy.place.path.iterdir()} == {
        path.name for path in run.place.path.iterdir()
    }


def test_export_without_a_checkpoint_takes_the_choice_of_its_run_directory(finished, tmp_path):
    run, outputs, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    other = next(s for s in run.place.checkpoint_steps() if s != outputs["chosen"]["step"])
    chosen = {"global_step": other, "identity": identify(copy.place.checkpoint(other))}
    for path in (copy.place.best, copy.place.gate):
        write_json(path, {**json.loads(path.read_text()), **chosen})

    assert copy.step("export")["model"]["checkpoint"] == f"model.ckpt-{other}"
    copy.place.gate.unlink()
    with pytest.raises(ValueError, match="run select_best first"):
        copy.step("export")


def test_an_export_that_a_registered_version_refers_to_is_not_replaced(
    finished, tmp_path, monkeypatch
):
    monkeypatch.setattr("components.export.step._MAX_COPIED_BYTES", 0)
    run, outputs, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    steps_ = copy.place.checkpoint_steps()
    best = outputs["chosen"]["step"]
    other = copy.place.checkpoint(next(step for step in steps_ if step != best))
    named = {"registered_model": "large"}
    copy.step("export", checkpoint=str(copy.place.checkpoint(best)), **named)
    before = files(copy.place.export)

    with pytest.raises(
        ValueError, match="only copy of a registered model, of a version of 'large'"
    ):
        copy.step("export", checkpoint=str(other), **named)

    checkpoints = copy.place.checkpoints.rename(copy.place.path / "elsewhere")
    with pytest.raises(ValueError, match="only copy of a registered model"):
        copy.prepare(edit_config_json='{"data_config.batch_size": 64}')
    with pytest.raises(ValueError, match="only copy of a registered model"):
        copy.prepare(eval_fraction=0.3)
    checkpoints.rename(copy.place.checkpoints)
    assert files(copy.place.export) == before
    copy.step("export", checkpoint=str(copy.place.checkpoint(best)), **named)
    rows = pq.read_table(run.data).slice(0, 3).to_pandas()
    assert len(mlflow.pyfunc.load_model("models:/large@champion").predict(rows)) == 3
    moved = Run(tmp_path / "moved")
    shutil.copytree(copy.place.path, moved.place.path)  # no version refers to this one
    exported = moved.step("export", checkpoint=str(moved.place.checkpoint(other.name[11:])))
    assert exported["model"]["checkpoint"] == other.name


def test_a_choice_is_not_paired_with_the_verdict_on_an_older_one(finished, tmp_path, monkeypatch):
    run, _, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    assert copy.place.read_gate()["verdict"] == "pass"

    def killed(*args, **settings):
        raise KeyboardInterrupt

    monkeypatch.setattr("components.select_best.step.challenge", killed)
    with pytest.raises(KeyboardInterrupt):
        copy.step("select_best")

    assert copy.place.read_best() is not None
    assert not copy.place.gate.exists()


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"edit_config_json": '{"data_config.batch_size": 64}'}, "trained with another config"),
        ({"eval_fraction": 0.3}, "trained with other rows"),
    ],
)
def test_a_run_dir_with_checkpoints_is_not_used_for_another_training(
    finished, tmp_path, parameters, message
):
    run, _, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    shutil.copystat(run.data, copy.data)
    parameters = {"train_input_path": str(run.data), **parameters}
    before = copy.place.config.read_text(), copy.place.read_info().data

    with pytest.raises(ValueError, match=message):
        copy.prepare(**parameters)

    assert (copy.place.config.read_text(), copy.place.read_info().data) == before


@pytest.mark.parametrize(
    "parameters",
    [{"edit_config_json": '{"data_config.batch_size": 64}'}, {"eval_fraction": 0.3}, {}],
    ids=["another config", "other rows", "the same"],
)
def test_without_its_checkpoints_nothing_of_another_training_stays(
    finished, tmp_path, parameters, caplog
):
    run, _, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    shutil.copystat(run.data, copy.data)
    shutil.rmtree(copy.place.checkpoints)

    copy.prepare(train_input_path=str(run.data), **parameters)

    # MLflow never changes the parameters of a run, so another config needs another one.
    is_same_run = copy.place.read_info().pipeline_run_id == run.place.read_info().pipeline_run_id
    assert is_same_run is ("edit_config_json" not in parameters)
    said = [told.message for told in caplog.records if "deleting" in told.message]
    if parameters:
        assert not copy.place.evaluation.exists()
        assert not copy.place.export.exists()
        assert len(said) == 1
        assert said[0].endswith("evaluation and export and report")
        assert copy.prepare(train_input_path=str(run.data), **parameters)
        assert [told.message for told in caplog.records if "deleting" in told.message] == said
    else:
        assert files(copy.place.export)
        assert said == []


def take_weights(source, target):
    """Gives a checkpoint the weights of another one, and a manifest that says so."""
    shutil.rmtree(target / "model")
    shutil.copytree(source / "model", target / "model")
    ours, theirs = (json.loads((path / "manifest.json").read_text()) for path in (target, source))
    kept = {name: record for name, record in ours.items() if not name.startswith("model/")}
    taken = {name: record for name, record in theirs.items() if name.startswith("model/")}
    (target / "manifest.json").write_text(json.dumps(kept | taken))


def test_a_result_of_a_checkpoint_that_another_training_replaced_does_not_count(finished, tmp_path):
    run, outputs, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    best = outputs["chosen"]["step"]
    other = next(s for s in run.place.checkpoint_steps() if s != best)
    take_weights(run.place.checkpoint(other), copy.place.checkpoint(best))
    old = files(copy.place.evaluation / "predictions")

    exported = copy.step("export", checkpoint=str(copy.place.checkpoint(best)))["model"]
    card = (copy.place.export / "model_card.md").read_text()
    assert exported["sha256"] != outputs["model"]["sha256"]
    assert f"| auc | {outputs['chosen']['metrics']['auc']:.4f} |" not in card
    assert copy.step("select_best")["step"] != best
    evaluated = copy.step("evaluate")
    exported = copy.step("export", checkpoint=str(copy.place.checkpoint(best)))["model"]

    # The weights are those of the other step, so are all numbers.
    results = {r.step: r.metrics for r in eval_result.read(copy.place.eval_result)}
    expected = {r.step: r.metrics for r in eval_result.read(run.place.eval_result)}[other]
    assert results[best] == pytest.approx(expected, abs=1e-6)
    assert evaluated["evaluation"]["checkpoints"] == len(run.place.checkpoint_steps())
    new = files(copy.place.evaluation / "predictions")
    assert old
    assert {path for path, time in old.items() if new.get(path) != time} == {
        path for path in old if path.is_relative_to(copy.place.predictions(best))
    }
    assert exported["sha256"] != outputs["model"]["sha256"]
    assert {path.name for path in copy.place.path.iterdir()} == {
        path.name for path in run.place.path.iterdir()
    }


def test_training_anew_with_the_same_config_publishes_its_own_model(finished, tmp_path):
    run, _, _ = finished
    copy = Run(tmp_path)
    shutil.copytree(run.place.path, copy.place.path)
    shutil.rmtree(copy.place.checkpoints)
    for step in run.place.checkpoint_steps():
        stale = copy.place.result(step).read_text().replace('"value": 0.', '"value": 0.0')
        copy.place.result(step).write_text(stale)
    (copy.place.export / "scripted_model.pt").write_bytes(b"stale")

    copy.step("train")
    copy.step("evaluate")
    selected = copy.step("select_best")
    exported = copy.step("export", checkpoint=selected["checkpoint"])["model"]

    assert selected["metrics"]["auc"] > 0.6
    model = copy.place.export / "scripted_model.pt"
    assert exported["sha256"] == hashlib.sha256(model.read_bytes()).hexdigest()
    assert exported["identity"] == identify(Path(selected["checkpoint"]))
    torch.jit.load(str(model))


def test_training_that_fails_fails_the_step_with_its_own_error_and_marks_the_runs(
    finished, tmp_path
):
    _, _, client = finished
    run = Run(tmp_path)
    run.prepare(experiment="broken")
    (part,) = (run.place.prepared_data() / "train").glob("*.parquet")
    part.write_bytes(part.read_bytes()[:-100])

    with pytest.raises(StepFailedError, match=f"training failed: .*{part.name}"):
        run.step("train")

    experiment = client.get_experiment_by_name("broken").experiment_id
    statuses = {
        told.data.tags["stage"]: told.info.status for told in client.search_runs([experiment])
    }
    assert statuses == {"pipeline": "FAILED", "prepare_data": "FINISHED", "train": "FAILED"}


def test_training_that_stops_early_is_a_success_with_all_its_checkpoints(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = Run(tmp_path)
    stopping = "num_epochs: 50 early_stopping { patience: 1 min_delta: 1 }"
    run.config.write_text(CONFIG.replace("num_epochs: 1", stopping))
    run.prepare()

    assert run.step("train")["checkpoints"]["step"] == 16
    run.step("evaluate")

    assert [result.step for result in eval_result.read(run.place.eval_result)] == [8, 16]


def test_a_run_dir_that_cannot_be_written_is_an_error(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = Run(tmp_path)
    run.place.path.write_text("a file, no folder")

    with pytest.raises(OSError, match=str(run.place.path)):
        run.prepare()
    assert run.place.path.read_text() == "a file, no folder"


def test_steps_out_of_order_say_what_to_run_first(tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    run = Run(tmp_path)
    run.prepare()
    messages = []
    for step in ("evaluate", "select_best"):
        with pytest.raises(ValueError, match="checkpoint") as raised:
            run.step(step)
        messages.append(str(raised.value))

    assert messages[0].endswith("run train on this run_dir first")
