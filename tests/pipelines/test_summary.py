import pytest

from components.steps import StepFailedError
from pipelines import summary
from tzrec_core.run_dir import RunDir, RunInfo, write_json


def finished(path):
    run_dir = RunDir(path)
    run_dir.write_info(RunInfo("run-1", "tzrec", "data/x", "#/experiments/1/runs/2"))
    write_json(
        run_dir.best,
        {
            "global_step": 90, "checkpoint": "model.ckpt-90", "reason": "the latest of 2",
            "metrics": {"auc": 0.75, "binary_cross_entropy": 0.48},
        },
    )  # fmt: skip
    write_json(run_dir.gate, {"verdict": "pass", "reasons": ["no gate is configured"]})
    return run_dir


def test_the_table_shows_how_much_of_what_is_possible_was_reached(tmp_path):
    table = summary.metrics_table(finished(tmp_path), best_possible={"auc": 0.8, "xauc": 0.9})

    assert table.splitlines() == [
        "",
        "model.ckpt-90, the latest of 2:",
        "  metric                 value  best possible  share reached",
        "  auc                   0.7500         0.8000          83.3%",
        "  binary_cross_entropy  0.4800",
    ]


@pytest.mark.parametrize("auc", [0.75, 0.76, 1.0])
def test_a_share_that_is_reached_is_enough(auc):
    summary.require_share({"auc": auc}, {"auc": 0.75, "xauc": 0.7}, min_share=1.0)
    summary.require_share({"auc": auc}, {"auc": 1.0}, min_share=0.5)


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ({"auc": 0.6249, "grouped_auc": 0.75}, r"auc 0\.6249 is 50\.0% .* 0\.7500, .* for 50\.0%$"),
        ({"auc": 0.4}, "is -40.0% of the way"),
        ({"accuracy": 0.9}, "no auc"),
    ],
)
def test_a_share_that_is_not_reached_is_an_error(metrics, message):
    with pytest.raises(StepFailedError, match=message):
        summary.require_share(metrics, {"auc": 0.75}, min_share=0.5)


def test_without_best_possible_values_the_table_has_two_columns(tmp_path):
    table = summary.metrics_table(finished(tmp_path), best_possible={})

    assert table.splitlines()[2:] == [
        "  metric                 value",
        "  auc                   0.7500",
        "  binary_cross_entropy  0.4800",
    ]


@pytest.mark.parametrize("limit", [None, 0.5])
def test_a_limit_that_says_nothing_gives_no_share(tmp_path, limit):
    table = summary.metrics_table(finished(tmp_path), best_possible={"auc": limit})

    assert table.splitlines()[3].split() == [
        "auc",
        "0.7500",
        *([] if limit is None else ["0.5000"]),
    ]
    with pytest.raises(StepFailedError, match=f"the best possible auc is {limit}"):
        summary.require_share({"auc": 0.7}, {"auc": limit}, min_share=0.5)


def test_the_link_to_the_run_has_no_credentials(tmp_path):
    shown = summary.places(finished(tmp_path), "https://name:password@mlflow:5000/at/")

    assert " https://mlflow:5000/at/#/experiments/1/runs/2" in shown
    assert "password" not in shown


def test_places_are_shown_as_seen_from_here(tmp_path, monkeypatch):
    run_dir = finished(tmp_path / "runs" / "1")
    monkeypatch.chdir(tmp_path)
    inside = summary.places(run_dir, "sqlite:///mlflow.db")
    monkeypatch.chdir(tmp_path / "runs" / "1" / "evaluation")
    outside = summary.places(run_dir, "http://mlflow:5000/")

    assert "  exported model" in inside
    assert " runs/1/export\n" in inside
    assert "make mlflow-ui, then http://127.0.0.1:5000/#/experiments/1/runs/2" in inside
    assert f" {run_dir.export}\n" in outside
    assert " http://mlflow:5000/#/experiments/1/runs/2" in outside


def test_a_model_that_is_not_exported_is_shown_with_the_reasons(tmp_path):
    run_dir = finished(tmp_path)
    write_json(run_dir.gate, {"verdict": "block", "reasons": ["auc is 0.7", "it may lose 0"]})

    assert "none, the gate blocks it: auc is 0.7; it may lose 0\n" in summary.places(run_dir, "")
