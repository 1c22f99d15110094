import json
import re
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from scipy.special import expit
from sklearn.metrics import roc_auc_score

from tests.tzrec_core.report import runs
from tzrec_core.config import loads
from tzrec_core.report.build import build
from tzrec_core.report.inputs import gather, read_champion
from tzrec_core.run_dir import RunDir, identify, write_json

MAX_BYTES = 500_000
LIMITS = {"auc": 0.86, "grouped_auc": 0.85, "xauc": None}


@pytest.fixture(scope="module")
def reported(tmp_path_factory):
    """A run with everything, reported against a champion."""
    folder = tmp_path_factory.mktemp("runs")
    champion = runs.write_run(folder / "old", noises=(1.8,), seed=3, eval_rows=2000)
    build(gather(champion), champion.report)
    place = runs.write_run(folder / "new", eval_rows=2000)
    inputs = gather(place, champion=read_champion(champion), best_possible=LIMITS)
    build(inputs, place.report, mlflow_link="http://mlflow/run")
    return place, champion


def html_of(place):
    return (place.report / "index.html").read_text()


def text_of(place):
    """The page's words, without tags and the blanks between them."""
    text = re.sub(r"<style>.*?</style>", "", html_of(place), flags=re.DOTALL)
    return " ".join(re.sub(r"<wbr>", "", text).replace("<", " <").split()).replace("\xa0", " ")


def report(folder, **settings):
    """Writes a run of one checkpoint without data, and its report; returns its words."""
    place = runs.write_run(folder / "run", noises=(0.5,), data=False, **settings)
    build(gather(place), place.report)
    assert len(html_of(place).encode()) < MAX_BYTES
    return text_of(place)


def replaced(table, name, values):
    return table.set_column(table.column_names.index(name), name, pa.array(values))


def test_the_page_is_one_small_file_without_scripts(reported):
    page = html_of(reported[0])

    assert len(page.encode()) < MAX_BYTES
    assert "<script" not in page
    assert not re.search(r"(?:src|href)=\"(?!#|http://mlflow/run)", page)
    assert not re.search(r"#0[0-9]0[0-9]0[0-9]", page)  # colours that stand for the page's


def test_ids_are_unique_and_those_referred_to_are_there(reported):
    page = html_of(reported[0])
    ids = re.findall(r'\bid="([^"]+)"', page)

    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:url\(|href=")#([^")]+)', page)) <= set(ids)


def test_the_page_has_every_section(reported):
    page = html_of(reported[0])
    sections = re.findall(r"<h2>(.*?)</h2>", page)
    figures = re.findall(r"<h3>(.*?)</h3>", page)

    assert sections == [
        "Metrics",
        "Ranking",
        "Calibration and scores",
        "Groups",
        "Checkpoints",
        "Slices",
        "Data",
        "Training",
    ]
    assert figures[:7] == [
        "ROC",
        "Precision and recall",
        "X-AUC by watch",
        "Calibration",
        "Scores by label",
        "grouped_auc by group size",
        "grouped_auc from group to group",
    ]
    assert page.count("<svg") == len(figures)


def test_the_headline_has_intervals_coverage_champion_and_best_possible(reported):
    place, champion = reported
    results = json.loads(place.result(300).read_text())["metrics"]["grouped_auc"]
    old = json.loads(champion.result(100).read_text())["metrics"]["grouped_auc"]
    text = text_of(place)

    for value in (results["value"], results["low"], results["high"], old["value"]):
        assert f"{value:.4f}" in text
    assert f"{results['group_coverage']:.1%}".replace("%", " %") in text
    assert f"{(results['value'] - 0.5) / 0.35:.1%}".replace("%", " %") in text
    assert "against the champion" in text
    assert "old, step 100" in text


def test_the_summary_starts_with_the_link_and_has_the_tables(reported):
    lines = (reported[0].report / "summary.md").read_text().splitlines()

    assert lines[0] == "[MLflow run](http://mlflow/run)"
    assert any(line.startswith("| grouped\\_auc | 0.") for line in lines)
    assert "<svg" not in "\n".join(lines)


def test_metrics_json_has_results_differences_and_drift(reported):
    place, champion = reported
    found = json.loads((place.report / "metrics.json").read_text())

    assert found["global_step"] == 300
    assert found["results"] == json.loads(place.result(300).read_text())
    assert found["champion"]["metrics"] == json.loads(champion.result(100).read_text())["metrics"]
    difference = found["differences"]["auc"]
    assert difference["low"] <= difference["value"] <= difference["high"]
    new, old = (found[side]["metrics"]["auc"]["value"] for side in ("results", "champion"))
    assert difference["value"] == pytest.approx(new - old)
    # Only the price of evaluation rows is shifted.
    psi = {name: column["eval"] for name, column in found["drift"].items()}
    assert psi["price"] > 0.1
    assert all(psi[name] < 0.1 for name in ("age", "item", "user", "country@slice"))
    assert all(column["champion"] < 0.1 for column in found["drift"].values())


def test_metrics_json_has_what_tables_may_have_no_room_for(reported):
    place, champion = reported
    found = json.loads((place.report / "metrics.json").read_text())
    result = {step: json.loads(place.result(step).read_text()) for step in (100, 200, 300, 400)}
    slices = {(part["column"], part["slice"]): part["metrics"] for part in result[300]["slices"]}
    old = json.loads(champion.result(100).read_text())["slices"]
    of_champion = {(part["column"], part["slice"]): part["metrics"] for part in old}
    stats = json.loads((place.prepared_data() / "_stats.json").read_text())

    assert found["checkpoints"] == {str(step): result[step] for step in result}
    assert found["champion"]["slices"] == old
    assert found["columns"] == stats
    differences = {
        (part["column"], part["slice"]): part["value"]
        for part in found["slice_differences"]
        if part["metric"] == "auc"
    }
    assert len(slices) > 4
    for part in slices.keys() & of_champion.keys():
        change = slices[part]["auc"]["value"] - of_champion[part]["auc"]["value"]
        assert differences[part] == pytest.approx(change)
    assert differences.keys() == slices.keys()


def test_per_group_has_the_value_of_each_group(reported):
    place, _ = reported
    table = pq.read_table(place.report / "per_group.parquet").to_pandas()
    rows = pq.read_table(place.predictions(300)).to_pandas()

    assert table["rows"].sum() == len(rows)
    assert table["positives_click"].sum() == rows["click"].sum()
    by_user = rows.groupby("user_id@id")
    for found in table.itertuples():
        of_user = by_user.get_group(found.group)
        assert found.rows == len(of_user)
        if of_user["click"].nunique() == 2:
            expected = roc_auc_score(of_user["click"], of_user["probs"])
            assert found.grouped_auc == pytest.approx(expected)
        else:
            assert np.isnan(found.grouped_auc)


def test_drift_from_a_champion_with_other_data(reported, tmp_path):
    place, champion = reported
    copy = tmp_path / "copy"
    shutil.copytree(champion.path, copy)
    path = copy / "report" / "drift_reference.json"
    reference = json.loads(path.read_text())
    price = reference["columns"]["price"]
    price["edges"] = [edge - 1 for edge in price["edges"]]
    reference["columns"]["user"]["num_embeddings"] += 1  # another vocabulary: not comparable
    path.write_text(json.dumps(reference))
    inputs = gather(place, champion=read_champion(RunDir(copy)))
    build(inputs, tmp_path / "report")
    found = json.loads((tmp_path / "report" / "metrics.json").read_text())["drift"]

    assert found["price"]["champion"] > 0.25
    assert found["user"]["champion"] is None
    assert found["item"]["champion"] < 0.1


def add_checkpoint(place, step):
    """Adds the checkpoint that a result is of."""
    place.checkpoint(step).mkdir(parents=True)
    (place.checkpoint(step) / "weights").write_text("first")
    content = json.loads(place.result(step).read_text())
    write_json(place.result(step), {**content, "checkpoint": identify(place.checkpoint(step))})


def test_results_of_checkpoints_that_are_gone_are_not_listed_unless_all_are(tmp_path):
    place = runs.write_run(tmp_path / "run", noises=(1, 1, 1, 1), eval_rows=200, data=False)
    assert list(gather(place).by_step) == [100, 200, 300, 400]

    for step in (100, 400):
        add_checkpoint(place, step)

    assert list(gather(place).by_step) == [100, 400]
    assert "nothing is chosen yet" in gather(place).chosen.reason  # 300 was


def test_a_result_of_a_checkpoint_that_was_trained_anew_is_not_reported(tmp_path):
    place = runs.write_run(tmp_path / "run", noises=(1, 1, 1), eval_rows=200, data=False)
    for step in (100, 200, 300):
        add_checkpoint(place, step)
    chosen = {"global_step": 200, "identity": identify(place.checkpoint(200))}
    write_json(place.best, {**chosen, "reason": "the largest"})
    write_json(place.gate, {**chosen, "verdict": "pass", "reasons": ["it is as good"]})
    before = gather(place)
    (place.checkpoint(200) / "weights").write_text("of another training")
    after = gather(place)

    assert (before.chosen.step, before.chosen.reason) == (200, "the largest")
    assert before.gate["verdict"] == "pass"
    assert list(after.by_step) == [100, 300]
    assert after.chosen.step != 200
    assert after.gate is None
    for step in (100, 300):
        (place.checkpoint(step) / "weights").write_text("of another training")
    with pytest.raises(ValueError, match="no results of the checkpoints that are there"):
        gather(place)


def test_a_report_replaces_an_older_one_and_leaves_nothing_else(reported):
    place, _ = reported
    before = {path.name for path in place.path.iterdir()}
    (place.report / "left over").touch()
    build(gather(place, step=100), place.report)

    assert {path.name for path in place.path.iterdir()} == before
    assert not (place.report / "left over").exists()
    assert "Checkpoint of step 100: as asked for." in text_of(place)
    assert "There is no champion to compare with." in text_of(place)


def test_a_step_without_result_is_a_mistake(reported):
    with pytest.raises(ValueError, match="no result of step 7; it has 100, 200, 300, 400"):
        gather(reported[0], step=7)


def test_before_a_choice_the_report_is_about_the_one_that_would_be_made(tmp_path):
    place = runs.write_run(tmp_path / "run", noises=(2.0, 0.3, 1.0), eval_rows=500, data=False)
    place.best.unlink()
    assert gather(place).chosen.step == 200
    with pytest.raises(ValueError, match="run evaluate first"):
        gather(RunDir(tmp_path))


def test_the_gates_champion_and_reasons_are_shown(tmp_path):
    place = runs.write_run(tmp_path / "run", noises=(0.5,), eval_rows=800, data=False)
    rows, utility = runs.raw_rows(800, num_users=300, price=0.4)
    folder = place.evaluation / "predictions" / "champion-3"
    folder.mkdir()
    pq.write_table(runs.predictions(rows, utility, noise=2.0), folder / "part-00000.parquet")
    compared = {"metric": "auc", "column": None, "slice": None, "champion": 0.6123}
    gate = {"verdict": "block", "reasons": ["auc: it may lose 0"], "champion": "3"}
    write_json(place.gate, {"global_step": 100, **gate, "comparisons": [compared]})
    build(gather(place), place.report)
    text = text_of(place)

    assert "Gate: block" in text
    assert "Auc: it may lose 0." in text
    assert "0.6123" in text
    assert "The champion is version 3 of the registered model." in text
    assert "against the champion" in text


def test_a_gate_that_failed_leaves_the_champions_metrics_out_and_says_why(tmp_path):
    place = runs.write_run(tmp_path / "run", noises=(0.5,), eval_rows=300, data=False)
    gate = {"verdict": "block", "reasons": ["the champion, version 3, cannot be compared: gone"]}
    write_json(place.gate, {"global_step": 100, **gate, "champion": "3"})
    build(gather(place), place.report)
    text = text_of(place)

    assert "The champion, version 3, cannot be compared: gone." in text
    assert "Metrics of the champion, version 3, are missing for the gate" in text
    assert "not on disk" not in text
    assert "The champion is" not in text


def test_a_champion_of_other_rows_stands_beside_without_a_test(tmp_path):
    champion = runs.write_run(tmp_path / "old", noises=(1,), eval_rows=700, data=False)
    place = runs.write_run(tmp_path / "new", noises=(1,), eval_rows=800, data=False)
    build(gather(place, champion=read_champion(champion)), place.report)
    text = text_of(place)

    assert "the models have scored different rows: 800 and 700" in text
    assert "against the champion" not in text
    assert "champion" in text


def test_a_regression_has_deciles_and_no_roc(tmp_path):
    text = report(tmp_path, config=runs.value_config(), eval_rows=600, num_users=50)

    assert "has no two classes" in text
    assert "X-AUC by watch" in text
    assert "Predictions and targets" in text
    assert "grouped_xauc by group size" in text


def test_a_binary_target_has_no_deciles(tmp_path):
    config = runs.binary_config(metrics="metrics { auc { thresholds: 0 } }")
    text = report(tmp_path, config=config, eval_rows=300)

    assert "X-AUC by target decile does not apply to a target of two values" in text
    assert "No metric of this task groups rows" in text
    assert not (tmp_path / "run" / "report" / "per_group.parquet").exists()


def test_without_data_slices_and_event_files_the_page_says_so(tmp_path):
    config = runs.binary_config()
    del config.eval_config.slices[:]
    text = report(tmp_path, config=config, eval_rows=300)

    assert "There is no prepared data in the run directory" in text
    assert "eval_config.slices is empty" in text
    assert "One checkpoint is evaluated" in text
    assert "has no log lines in TensorBoard" in text


def test_without_predictions_there_are_no_curves(tmp_path):
    place = runs.write_run(tmp_path / "run", noises=(1,), eval_rows=300, data=False)
    shutil.rmtree(place.predictions(100))
    build(gather(place), place.report)
    assert "The predictions of this checkpoint are not on disk" in text_of(place)


def test_prepared_rows_that_are_gone_leave_statistics(tmp_path):
    place = runs.write_run(tmp_path / "run", noises=(1,), eval_rows=300)
    for path in place.prepared_data().glob("*/*.parquet"):
        path.unlink()
    build(gather(place), place.report)
    text = text_of(place)

    assert "The prepared rows are not on disk: no drift." in text
    assert "600 rows of train, 300 rows of eval" in text
    assert "columns with drift" not in text
    assert not (place.report / "drift_reference.json").exists()


def test_one_group(tmp_path):
    text = report(
        tmp_path,
        eval_rows=300,
        change=lambda t: replaced(t, "user_id@id", np.ones(len(t), np.int64)),
    )
    assert "100.0 % of user_id" in text


def test_no_usable_group(tmp_path):
    text = report(
        tmp_path, eval_rows=300, change=lambda t: replaced(t, "user_id@id", t["@row"].to_numpy())
    )
    assert "No user_id has a value of grouped_auc" in text


def test_no_known_group(tmp_path):
    text = report(
        tmp_path,
        eval_rows=300,
        change=lambda t: replaced(t, "user_id@id", pa.nulls(len(t), pa.int64())),
    )
    assert "No user_id has a value of grouped_auc" in text


@pytest.mark.parametrize(("label", "which"), [(0, "negative"), (1, "positive")])
def test_one_class(tmp_path, label, which):
    text = report(
        tmp_path,
        eval_rows=300,
        change=lambda t: replaced(t, "click", np.full(len(t), label)),
    )
    assert f"All rows are {which}" in text


def test_constant_scores(tmp_path):
    text = report(
        tmp_path,
        eval_rows=300,
        change=lambda t: replaced(t, "probs", np.full(len(t), 0.25, np.float32)),
    )
    assert "0.5000" in text
    assert "1 bins of 300 rows" in text


def test_a_single_row(tmp_path):
    text = report(tmp_path, eval_rows=2, change=lambda t: t.slice(0, 1))
    assert "One row has no pair" in text


def test_several_tasks_and_classes_have_sections_of_their_own(tmp_path):
    towers = """
      task_towers { tower_name: "ctr" label_name: "click" losses { binary_cross_entropy {} }
        metrics { auc { thresholds: 0 } } mlp { hidden_units: 4 } }
      task_towers { tower_name: "kind" label_name: "watch" num_class: 3
        losses { softmax_cross_entropy {} } metrics { accuracy {} } mlp { hidden_units: 4 } }
    """
    text = str(runs.binary_config())
    begin = text.index("  deepfm")
    config = loads(
        text[:begin].replace('group_name: "wide"', 'group_name: "all"')
        + f"simple_multi_task {{ {towers} }} }}",
        source="test",
    )
    rng = np.random.default_rng(0)
    clicks, classes = rng.integers(0, 2, 200), rng.integers(0, 3, 200)
    probs = rng.dirichlet([1, 1, 1], 200).astype(np.float32)
    table = pa.table(
        {
            "@row": np.arange(200),
            "click": clicks,
            "watch": classes,
            "country@slice": ["DE", "FR"] * 100,
            "age@slice": rng.integers(18, 70, 200),
            "probs_ctr": expit(rng.normal(size=200)).astype(np.float32),
            "probs_kind": pa.FixedSizeListArray.from_arrays(probs.reshape(-1), 3),
        }
    )
    place = RunDir(tmp_path / "run")
    place.checkpoints.mkdir(parents=True)
    place.config.write_text(str(config))
    runs.write_evaluation(place, config, {5: table}, losses={})
    build(gather(place), place.report)
    text = text_of(place)

    assert "ctr: metrics" in text
    assert "kind: ranking" in text
    assert "watch has more than two classes" in text
    assert "accuracy_kind" in text


def test_names_that_are_not_html(tmp_path):
    def change(table):
        countries = np.array(['<script>alert("1")</script>', "a|b", "$x_1$ & $y$", "ü" * 60])
        return replaced(table, "country@slice", countries[np.arange(len(table)) % 4])

    text = report(tmp_path, eval_rows=300, change=change)

    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert "a\\|b" in (tmp_path / "run" / "report" / "summary.md").read_text()


def test_a_million_rows_are_as_small(tmp_path):
    config = runs.binary_config()
    del config.eval_config.slices[:]  # their intervals would take the test's time
    text = report(tmp_path, config=config, eval_rows=1_000_000, num_users=100_000)
    assert "1,000,000" in text
