"""A model meets the champion of a real registry on its own evaluation rows."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mlflow import MlflowClient
from sklearn.metrics import roc_auc_score

from components import steps
from components.steps import StepFailedError
from tests.pipeline_inputs import CONFIG, write_click_logs
from tzrec_core.evaluation.predictions import read_predictions, read_rows
from tzrec_core.run_dir import RunDir

MARGIN = {"metric": "auc", "max_loss": 0.002, "min_slice_share": 0.1}
SLICES = [{"column": "age", "max_parts": 2}]


class Runs:
    """Runs of one experiment, from data that all share."""

    def __init__(self, folder):
        self.folder = folder
        self.data = write_click_logs(folder / "clicks.parquet", num_rows=3000, seed=0)

    def up_to_the_gate(self, name, edits, config=CONFIG, num_processes=1):
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
        steps.load("evaluate")(run_dir=run_dir, num_processes=num_processes)
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


@pytest.fixture(scope="module")
def again(runs):
    """A run as the champion's, and what select_best has said of it."""
    return runs.up_to_the_gate("again", {})


@pytest.fixture(scope="module")
def limited(runs):
    """A run that is its own champion, by reference; two ranks evaluated two batches each."""
    vocabulary = runs.folder / "cities"
    vocabulary.write_text("lyon\nnice\n")  # no value of the data, which does not matter here
    config = CONFIG.replace("hash_bucket_size: 100", f'vocab_file: "{vocabulary}"')
    edits = {"eval_config.num_steps": 2}
    place, chosen = runs.up_to_the_gate("limited", edits, config, num_processes=2)
    named = {"registered_model": "limited"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("components.export.step._MAX_COPIED_BYTES", 0)
        steps.load("export")(run_dir=str(place.path), checkpoint=chosen["checkpoint"], **named)
    return place, named


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
    with pytest.raises(StepFailedError, match=r"the gate blocks model.ckpt-\d+, .*: auc is 0\."):
        steps.load("export")(run_dir=str(place.path))
    assert not place.export.exists()


def test_the_champion_does_not_lose_against_itself(again):
    place, chosen = again

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


def test_without_a_registry_the_gate_blocks(again, monkeypatch):
    place, _ = again
    monkeypatch.delenv("MLFLOW_TRACKING_URI")

    assert steps.load("select_best")(run_dir=str(place.path))["verdict"] == "block"
    assert "runs are not tracked" in said(place)["reasons"][0]


def test_a_champion_registered_by_reference_is_judged_as_long_as_it_is_there(
    runs, again, monkeypatch
):
    place, _ = again
    monkeypatch.setattr("components.export.step._MAX_COPIED_BYTES", 0)
    owner = RunDir(runs.folder / "champion")
    best = json.loads(owner.best.read_text())["checkpoint"]
    named = {"registered_model": "referred to"}
    steps.load("export")(run_dir=str(owner.path), checkpoint=str(owner.checkpoints / best), **named)

    assert steps.load("select_best")(run_dir=str(place.path), **named)["verdict"] == "pass"
    assert said(place)["comparisons"]
    model = owner.export / "scripted_model.pt"
    model.rename(owner.export / "elsewhere.pt")
    ended = steps.load("select_best")(run_dir=str(place.path), **named)
    (owner.export / "elsewhere.pt").rename(model)

    assert ended["verdict"] == "block"
    (reason,) = said(place)["reasons"]
    assert reason.startswith(
        "the champion, version 1, cannot be compared: the model was registered"
    )
    assert "PSI champion" in (place.report / "index.html").read_text()


def test_a_champion_scores_the_rows_of_an_evaluation_that_ended_early(limited):
    place, named = limited
    former = place.evaluation / "predictions" / "champion-99"
    former.mkdir()

    assert steps.load("select_best")(run_dir=str(place.path), **named)["verdict"] == "pass"

    gate = said(place)
    assert {found["metric"] for found in gate["comparisons"]} == {"auc", "grouped_auc"}
    assert all(abs(found["difference"]) < 1e-3 for found in gate["comparisons"])
    scored = read_rows(place.evaluation / "predictions" / "champion-1")
    assert 200 < len(scored) < 600  # two batches of two ranks
    step = json.loads(place.best.read_text())["global_step"]
    assert scored.tolist() == read_rows(place.predictions(step)).tolist()
    assert not former.exists()


def test_a_champion_whose_files_are_damaged_blocks_and_nothing_fails(runs, limited):
    place, named = limited
    vocabulary = place.export / "assets" / "city.vocab"
    (reference,) = [
        file for file in runs.folder.rglob("reference.json") if str(place.path) in file.read_text()
    ]

    vocabulary.unlink()
    assert steps.load("select_best")(run_dir=str(place.path), **named)["verdict"] == "block"
    (reason,) = said(place)["reasons"]
    assert reason.startswith("the champion, version 1, cannot be compared: ")
    assert "city.vocab" in reason

    reference.write_text("{}")
    assert steps.load("select_best")(run_dir=str(place.path), **named)["verdict"] == "block"
    (reason,) = said(place)["reasons"]
    assert reason == "the champion, version 1, cannot be compared: KeyError: 'path'"


def test_drift_is_measured_against_a_champion_whose_run_directory_is_gone(runs):
    data = write_click_logs(runs.folder / "shifted.parquet", num_rows=3000, seed=1)
    rows = pq.read_table(data)
    older = pa.array(rows["age"].to_numpy() + 3)
    pq.write_table(rows.set_column(rows.column_names.index("age"), "age", older), data)
    runs.data = data
    (runs.folder / "champion").rename(runs.folder / "gone")

    place, _ = runs.up_to_the_gate("shifted", {})

    drift = json.loads((place.report / "metrics.json").read_text())["drift"]
    assert drift["age"]["champion"] > 1
    assert drift["city"]["champion"] < 0.1
    assert "comparisons" in said(place)
