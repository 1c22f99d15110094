import shutil

import pyarrow.parquet as pq
import pytest

from tests.tzrec_core.report import runs
from tzrec_core.evaluation.predictions import Predictions
from tzrec_core.evaluation.statistics import Columns, statistics_of
from tzrec_core.metrics.bootstrap import paired_difference
from tzrec_core.report.__main__ import main
from tzrec_core.report.compare import compare
from tzrec_core.report.inputs import read_scored
from tzrec_core.report.page import Cell, Page, Section, Table, number, to_html
from tzrec_core.report.pairing import paired_differences
from tzrec_core.task_metrics import judged_metrics


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("compared")
    config = runs.binary_config()
    config.train_config.num_epochs = 2
    return [
        runs.write_run(folder / "first", noises=(1.5,), eval_rows=900, data=False),
        runs.write_run(folder / "second", config=config, noises=(0.4,), eval_rows=900, data=False),
    ]


def table_of(place):
    return Predictions(pq.read_table(place.predictions(100)).sort_by("@row"), 1.0)


def test_differences_are_paired_on_the_same_rows(two, tmp_path):
    text = compare([read_scored(place) for place in two], tmp_path)
    old, new = map(table_of, two)

    for judged in judged_metrics(runs.binary_config()):
        ours, theirs = (statistics_of(judged, Columns(t), key="user_id") for t in (new, old))
        expected = paired_difference(ours, theirs, level=0.95, seed=0)
        (line,) = [line for line in text.splitlines() if line.startswith(f"{judged.name} ")]
        assert number(ours.value) in line
        assert number(theirs.value) in line
        assert number(expected.value, signed=True) in line
        assert number(expected.low, signed=True) in line


def test_both_files_are_written_and_configs_are_compared(two, tmp_path):
    text = compare([read_scored(place) for place in two], tmp_path / "new")

    assert "+ num_epochs: 2" in text
    assert "- num_epochs: 1" in text
    assert "+ num\\_epochs: 2" in (tmp_path / "new" / "compare.md").read_text()
    assert "2 runs side by side" in (tmp_path / "new" / "compare.html").read_text()


def test_other_rows_are_said_to_be_others_and_shown_without_a_test(two, tmp_path):
    other = runs.write_run(tmp_path / "other", noises=(1,), eval_rows=500, data=False)
    text = compare([read_scored(place) for place in (two[0], other)], tmp_path)

    assert "There is no paired test, the models have scored different rows: 500 and 900" in text
    value = read_scored(other).results["metrics"]["auc"]["value"]
    assert f"{value:.4f}" in text
    assert "+0." not in text


def test_metrics_that_only_a_later_run_has_are_named(two, tmp_path):
    config = runs.binary_config(metrics="metrics { auc { thresholds: 0 } }")
    other = runs.write_run(tmp_path / "few", config=config, noises=(1,), eval_rows=900, data=False)
    text = compare([read_scored(place) for place in (other, two[0])], tmp_path)
    equal = compare([read_scored(place) for place in two], tmp_path)

    lost = "grouped_auc, xauc, normalized_entropy, calibration"
    assert f"first: few has no {lost}." in text
    assert "has no" not in equal


def test_many_rows_are_in_metrics_json_only_beside_a_report():
    rows = [[Cell(str(number)), Cell("1")] for number in range(200)]
    section = Section("Many", [Table(["name", "value"], rows)])
    texts = [
        to_html(Page("page", "", link="", tiles=(), sections=[section], numbers_file=file))
        for file in ("", "metrics.json")
    ]

    assert "50 further rows are left out." in texts[0]
    assert "50 further rows are in metrics.json." in texts[1]


def test_runs_of_one_name_are_told_apart(two, tmp_path):
    text = compare([read_scored(place) for place in (two[0], two[0], two[1])], tmp_path)

    assert "first #1" in text
    assert "first #2" in text
    assert "The config of first #2 is that of first #1." in text


def test_without_predictions_there_is_no_test(two):
    config = runs.binary_config()
    differences, (note,) = paired_differences(config, None, table_of(two[0]), with_slices=True)
    assert differences.listed() == {}
    assert "not on disk" in note


def test_a_baseline_without_a_prediction_is_named(two):
    old = table_of(two[0])
    without = Predictions(old.table.rename_columns({"probs": "probs_ctr"}), 1.0)
    found, notes = paired_differences(runs.binary_config(), old, without, with_slices=False)
    assert found.listed() == {}
    assert notes[0] == "The other model has no probs, which auc is of."


def test_the_command_rebuilds_a_report(two, tmp_path, capsys):
    copy = tmp_path / "copy"
    shutil.copytree(two[1].path, copy)
    main(["--run_dir", str(copy), "--champion", str(two[0].path)])

    assert capsys.readouterr().out == f"wrote {copy}/report/index.html\n"
    assert "first, step 100" in (copy / "report" / "index.html").read_text()


def test_the_command_compares_and_refuses_a_single_run(two, tmp_path, capsys):
    main(["compare", *(str(place.path) for place in two), "--output", str(tmp_path)])
    assert "2 runs side by side" in capsys.readouterr().out
    assert (tmp_path / "compare.html").exists()
    with pytest.raises(SystemExit):
        main(["compare", str(two[0].path)])


def test_a_run_without_evaluation_is_a_mistake(tmp_path):
    (tmp_path / "pipeline.config").write_text(str(runs.binary_config()))
    with pytest.raises(ValueError, match="evaluation has no results; run evaluate first"):
        main(["--run_dir", str(tmp_path)])
