"""A model meets the champion of a real registry on its own evaluation rows."""

import json

import pytest
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from components import steps
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core.evaluation.predictions import read_predictions
from tzrec_core.run_dir import RunDir

MARGIN = {"metric": "auc", "max_loss": 0.002, "min_slice_share": 0.1}
SLICES = [{"column": "age", "max_parts": 2}]


class Runs:
    """Runs of one experiment, from data that all share."""

    def __init__(self, folder):
        self.folder = folder
        self.data = write_click_logs(folder / "clicks.parquet", num_rows=3000, seed=0)

    def up_to_the_gate(self, name, edits, config=CONFIG):
        """Returns the run directory and what select_best says."""
        path = self.folder / f"{name}.config"
        path.write_text(config)
        run_dir = str(self.folder / name)
        gate = {"export_config.gate": [MARGIN], "eval_config.slices": SLICES}
        steps.load("prepare_data")(
            run_dir=run_dir,
            pipeline_config=str(path),
            train_input_path=str(self.data),
            eval_fraction=0.2,
            experiment="gate",
            edit_config_json=json.dumps({**gate, **edits}),
        )
        steps.load("train")(run_dir=run_dir)
        steps.load("evaluate")(run_dir=run_dir)
        return RunDir(run_dir), steps.load("select_best")(run_dir=run_dir)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The champion has been trained and exported."""
    folder = tmp_path_factory.mktemp("gate")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{folder / 'mlflow.db'}")
        patch.delenv("MLFLOW_RUN_ID", raising=False)
        patch.setenv("OMP_NUM_THREADS", "1")
        all_runs = Runs(folder)
        place, chosen = all_runs.up_to_the_gate("champion", {})
        assert chosen["verdict"] == "pass"
        assert said(place)["reasons"] == ["there is no champion yet"]
        steps.load("export")(run_dir=str(place.path), checkpoint=chosen["checkpoint"])
        yield all_runs


def said(place):
    return json.loads(place.gate.read_text())


def status_of_the_pipeline(place):
    client = MlflowClient()
    experiment = client.get_experiment_by_name("gate").experiment_id
    condition = f"tags.`kfp.pipeline_run_id` = '{place.read_info().pipeline_run_id}'"
    found = client.search_runs([experiment], f"{condition} and tags.stage = 'pipeline'")
    return [run.info.status for run in found]


def test_a_worse_model_is_blocked_with_its_numbers(runs):
    edits = {"train_config.sparse_optimizer.adagrad_optimizer.lr": 1e-6}
    edits["train_config.dense_optimizer.adam_optimizer.lr"] = 1e-6
    place, chosen = runs.up_to_the_gate("worse", edits)

    assert chosen["verdict"] == "block"
    gate = said(place)
    on_all, *on_slices = gate["comparisons"][::2]  # auc, grouped_auc, auc, ...
    assert gate["champion"] == "1"
    ours = read_predictions(place.predictions(chosen["step"]), key=None)
    theirs = read_predictions(place.evaluation / "predictions" / "champion-1", key=None)
    label = ours.tensor("click")
    assert on_all["candidate"] == pytest.approx(roc_auc_score(label, ours.tensor("probs")))
    assert on_all["champion"] == pytest.approx(roc_auc_score(label, theirs.tensor("probs")))
    assert on_all["difference"] < -0.002
    assert [found["column"] for found in on_slices] == ["age", "age"]
    assert gate["reasons"][0].startswith(f"auc is {on_all['candidate']:.5f}, the champion's")
    assert status_of_the_pipeline(place) == ["FINISHED"]


def test_the_champion_does_not_lose_against_itself(runs):
    place, chosen = runs.up_to_the_gate("again", {})

    assert chosen["verdict"] == "pass"
    # Served, the champion rounds otherwise than its checkpoint.
    assert all(abs(found["difference"]) < 1e-3 for found in said(place)["comparisons"])
    assert status_of_the_pipeline(place) == ["RUNNING"]


def test_a_champion_that_encodes_otherwise_cannot_be_judged_and_blocks(runs):
    edits = {"feature_configs[1].id_feature.hash_bucket_size": 50}
    place, chosen = runs.up_to_the_gate("other", edits)

    assert chosen["verdict"] == "block"
    (reason,) = said(place)["reasons"]
    assert reason == (
        "the champion, version 1, cannot be compared: the exported model encodes feature 'city'"
        " otherwise"
    )


def test_without_a_registry_the_gate_blocks(runs, monkeypatch):
    place = RunDir(runs.folder / "again")
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    assert steps.load("select_best")(run_dir=str(place.path))["verdict"] == "block"
    assert "runs are not tracked" in said(place)["reasons"][0]
