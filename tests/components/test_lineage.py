"""What MLflow is told of a run, in a real store."""

import pytest
from mlflow import MlflowClient

from components import description, experiments, lineage
from tests.programs import run_without
from tzrec_core import mlflow_run
from tzrec_core.eval_result import EvalResult
from tzrec_core.run_dir import RunDir, RunInfo, identify, write_json

RESULT = EvalResult(8, {"auc": 0.7, "grouped_auc": 0.6})


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def client(store, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    monkeypatch.delenv("MLFLOW_RUN_ID", raising=False)
    return MlflowClient()


@pytest.fixture
def place(tmp_path):
    place = RunDir(tmp_path / "run")
    place.checkpoint(8).mkdir(parents=True)
    (place.checkpoint(8) / "weights").write_text("first")
    place.write_info(RunInfo("id", "experiment", data=""))
    return place


def step(place, name="evaluate"):
    return mlflow_run.track(
        name, experiment=place.path.parent.name, name=name, identity={"id": "1"}, parent_name="all"
    )


def listed(client, run):
    """Returns the models of the parent run."""
    parent = mlflow_run.run_and_parent(client, run.run_id)[1]
    experiment = client.get_run(parent).info.experiment_id
    return parent, client.search_logged_models([experiment])


def test_what_a_launcher_without_torch_needs_imports_none_of_it():
    imports = "import components.experiments, components.lineage, pipelines.summary"
    run_without(["torch", "numpy", "pyarrow", "pandas", "mlflow", "torchrec"], imports)


def test_a_checkpoint_is_listed_once_with_its_metrics_on_the_parent(client, place):
    for _ in range(2):
        with step(place) as run:
            run.log_metrics(RESULT.metrics, prefix="eval", step=8)
            lineage.log_checkpoints(run, place, [RESULT], "rows")

    parent, (model,) = listed(client, run)
    assert (model.source_run_id, model.status.value) == (parent, "READY")
    assert model.tags["path"] == str(place.checkpoint(8))
    assert {(m.key, m.value, m.step, m.dataset_digest) for m in model.metrics} == {
        ("eval/auc", 0.7, 8, "rows"), ("eval/grouped_auc", 0.6, 8, "rows"),
    }  # fmt: skip
    assert len(client.get_metric_history(parent, "eval/auc")) == 1


def test_a_listing_that_was_interrupted_is_finished(client, place):
    with step(place) as run:
        lineage.log_checkpoints(run, place, [RESULT], "rows")
    parent, (whole,) = listed(client, run)
    client.delete_logged_model(whole.model_id)
    left = client.create_logged_model(
        whole.experiment_id, name="begun", source_run_id=parent, tags=whole.tags
    )
    with step(place) as run:
        lineage.log_checkpoints(run, place, [RESULT], "rows")

    _, (model,) = listed(client, run)
    assert (model.model_id, model.status.value) == (left.model_id, "READY")
    assert {m.key for m in model.metrics} == {"eval/auc", "eval/grouped_auc"}


def test_a_checkpoint_that_was_trained_anew_takes_the_place_of_the_old_one(client, place):
    other = EvalResult(8, {"auc": 0.8})
    with step(place) as run:
        lineage.log_checkpoints(run, place, [RESULT], "rows")
        (place.checkpoint(8) / "weights").write_text("another")
        lineage.log_checkpoints(run, place, [other], "rows")

    _, (model,) = listed(client, run)
    assert {(m.key, m.value) for m in model.metrics} == {("eval/auc", 0.8)}


def test_a_checkpoint_behind_many_others_is_found_again(client, place):
    with step(place) as run:
        lineage.log_checkpoints(run, place, [RESULT], "rows")
        parent, (model,) = listed(client, run)
        for index in range(101):
            client.create_logged_model(
                model.experiment_id, name=f"other {index}", source_run_id=parent
            )
        lineage.log_checkpoints(run, place, [RESULT], "rows")

    condition = f"tags.path = '{place.checkpoint(8)}'"
    assert len(client.search_logged_models([model.experiment_id], condition)) == 1


def test_data_is_named_on_the_run_and_its_parent_once(client, place):
    for _ in range(2):
        with step(place) as run:
            lineage.log_data(run, {"eval": (place.path, "f" * 40)})

    for run_id in mlflow_run.run_and_parent(client, run.run_id):
        used = client.get_run(run_id).inputs.dataset_inputs
        assert [(i.dataset.name, i.dataset.digest) for i in used] == [("eval", "f" * 36)]


def choose(place, *, reason):
    chosen = {"global_step": 8, "identity": identify(place.checkpoint(8))}
    write_json(place.best, {**chosen, "checkpoint": "model.ckpt-8", "reason": reason})
    return chosen


def note(client, run_id):
    return client.get_run(run_id).data.tags.get("mlflow.note.content")


def test_a_run_is_described_anew_until_a_person_describes_it(client, place):
    with step(place) as run:
        description.write(client, run.run_id, place, title="deepfm · 10 steps")
        first = note(client, run.run_id)
        choose(place, reason="the only one")
        description.write(client, run.run_id, place, title="deepfm · 10 steps")
        second = note(client, run.run_id)
        client.set_tag(run.run_id, "mlflow.note.content", "Best so far.")
        description.write(client, run.run_id, place, title="deepfm · 10 steps")

    assert first.startswith("**deepfm · 10 steps**\n")
    assert "Chosen" not in first
    assert "Chosen: **step 8**, the only one." in second
    assert note(client, run.run_id) == "Best so far."


def test_a_description_has_the_numbers_that_exist(place):
    metrics = {
        "auc": {"value": 0.81234, "low": 0.80001, "high": 0.82, "row_coverage": 1.0},
        "log_loss": {"value": 0.00012345, "low": None, "high": None},
        "xauc": {"value": None, "low": None, "high": None},
    }
    chosen = choose(place, reason="the latest")
    result = {"checkpoint": chosen["identity"], "confidence_level": 0.9, "metrics": metrics}
    write_json(place.result(8), result)
    gate = {"verdict": "block", "reasons": ["auc is less", "so is xauc"]}
    write_json(place.gate, {**chosen, **gate})

    lines = description.text(place, title="dlrm", page="#/x", tags={}).splitlines()

    assert "| metric | value | 90% interval |" in lines
    assert "| auc | 0.8123 | 0.8000 to 0.8200 |" in lines
    assert "| log_loss | 0.0001234 |  |" in lines
    assert "| xauc |  |  |" in lines
    assert "Gate: **block**; auc is less; so is xauc." in lines
    assert not any("report" in line or "Exported" in line for line in lines)


def test_a_description_has_nothing_of_a_checkpoint_that_was_trained_anew(place):
    chosen = choose(place, reason="the latest")
    write_json(place.gate, {**chosen, "verdict": "pass", "reasons": ["it is as good"]})
    assert "Chosen" in description.text(place, title="dlrm", page="#/x", tags={})

    (place.checkpoint(8) / "weights").write_text("another")

    text = description.text(place, title="dlrm", page="#/x", tags={})
    assert "Chosen" not in text
    assert "Gate" not in text


def test_a_description_that_mlflow_would_cut_is_cut_before_and_is_written_anew(client, place):
    chosen = choose(place, reason="the latest")
    reasons = [f"reason {number}" for number in range(100)]
    write_json(place.gate, {**chosen, "verdict": "block", "reasons": reasons})
    short = description.text(place, title="dlrm", page="#/x", tags={})
    metrics = {"x" * 900 + str(number): {"value": 1, "low": 1, "high": 1} for number in range(12)}
    result = {"checkpoint": chosen["identity"], "confidence_level": 0.9, "metrics": metrics}
    write_json(place.result(8), result)
    with step(place) as run:
        description.write(client, run.run_id, place, title="dlrm")
        first = note(client, run.run_id)
        description.write(client, run.run_id, place, title="another title")
        second = note(client, run.run_id)

    assert "; reason 9; 90 more in `gate.json`." in short
    assert len(first) <= 8000
    assert first.endswith("|\n…")
    assert second.startswith("**another title**")


@pytest.mark.parametrize(
    ("uri", "expected"),
    [
        ("https://name:pass@word@mlflow.example:5000/at/?key=1", "https://mlflow.example:5000/at/"),
        ("http://token@[::1]:5000", "http://[::1]:5000/"),
        ("sqlite:///mlflow.db", ""),
    ],
)
def test_a_link_has_no_credentials(monkeypatch, uri, expected):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    link = experiments.mlflow_link(RunInfo("id", "experiment", "", "#/experiments/1"))

    assert link == (f"{expected}#/experiments/1" if expected else "")
