import json
import math
import os
import signal
import subprocess
import sys

import pytest

from tzrec_core import eval_result
from tzrec_core.eval_result import EvalResult


def test_a_line_is_json_that_begins_with_the_step_and_sorts_the_metrics(tmp_path):
    path = tmp_path / "results.txt"

    eval_result.append(path, 100, {"grouped_auc": 0.5, "auc": 0.75, "xauc": math.nan})

    line = path.read_text()
    assert line == '{"global_step": 100, "auc": 0.75, "grouped_auc": 0.5, "xauc": null}\n'
    assert json.loads(line)["xauc"] is None  # strict JSON: no NaN


def test_what_is_appended_is_read_in_the_order_of_steps_and_the_last_line_of_a_step_counts(
    tmp_path,
):
    path = tmp_path / "results.txt"
    for step, auc in ((20, 0.7), (10, 0.6), (20, 0.8)):
        eval_result.append(path, step, {"auc": auc})

    assert eval_result.read(path) == [EvalResult(10, {"auc": 0.6}), EvalResult(20, {"auc": 0.8})]


def test_a_value_that_is_not_finite_is_read_as_nan(tmp_path):
    path = tmp_path / "results.txt"
    eval_result.append(path, 1, {"a": math.nan, "b": math.inf, "c": 1.0})

    metrics = eval_result.read(path)[0].metrics

    assert math.isnan(metrics["a"])
    assert math.isnan(metrics["b"])
    assert metrics["c"] == 1.0


def test_blank_lines_are_no_results(tmp_path):
    path = tmp_path / "results.txt"
    path.write_text('\n{"global_step": 1, "auc": 0.5}\n \n{"global_step": 2, "auc": 0.6}\n\n')

    assert [result.step for result in eval_result.read(path)] == [1, 2]


def test_without_a_file_there_are_no_results(tmp_path):
    assert eval_result.read(tmp_path / "none.txt") == []


def test_a_half_written_last_line_is_left_out_and_replaced_by_the_next_result(tmp_path):
    path = tmp_path / "results.txt"
    eval_result.append(path, 1, {"auc": 0.6})
    whole = path.read_text()
    path.write_text(whole + whole[: len(whole) // 2])

    assert [result.step for result in eval_result.read(path)] == [1]
    eval_result.append(path, 2, {"auc": 0.7})
    assert [result.step for result in eval_result.read(path)] == [1, 2]


def test_lines_of_a_process_that_is_killed_while_appending_stay_readable(tmp_path):
    path = tmp_path / "results.txt"
    endless = (
        "import itertools, sys; from tzrec_core import eval_result\n"
        "for step in itertools.count(): eval_result.append(sys.argv[1], step, {'auc': 0.5})"
    )
    process = subprocess.Popen([sys.executable, "-c", endless, path])
    while not path.exists() or path.stat().st_size < 1000:
        assert process.poll() is None
    process.send_signal(signal.SIGKILL)
    process.wait()

    eval_result.append(path, 10**9, {"auc": 0.6})

    results = eval_result.read(path)
    assert [result.step for result in results] == [*range(len(results) - 1), 10**9]


@pytest.mark.parametrize(
    "line",
    ['{"auc": 1}', "[1]", "auc 0.5", '{"global_step": null}', '{"global_step": 1, "a": "x"}'],
)
def test_a_line_that_is_no_result_is_an_error_with_its_number(tmp_path, line):
    path = tmp_path / "results.txt"
    path.write_text(f'{{"global_step": 1, "auc": 0.5}}\n{line}\n')

    with pytest.raises(ValueError, match="line 2"):
        eval_result.read(path)


@pytest.mark.parametrize("larger_is_better", [True, False])
def test_the_best_is_what_sorting_by_value_then_step_puts_first(larger_is_better):
    values = [0.5, 0.75, math.nan, 0.75, 0.25, 0.25, 0.5]
    results = [EvalResult(step, {"m": value}) for step, value in enumerate(values)]
    ordered = sorted(
        (-value if larger_is_better else value, step)
        for step, value in enumerate(values)
        if value == value
    )

    best = eval_result.best(results, "m", larger_is_better=larger_is_better)

    assert best.step == ordered[0][1]


@pytest.mark.parametrize(
    ("results", "message"),
    [
        ([], "no evaluation results"),
        ([EvalResult(1, {"auc": 0.5})], r"'gauc'; they have \['auc'\]"),
        ([EvalResult(1, {"gauc": math.nan})], "'gauc' has no value"),
    ],
)
def test_without_a_value_there_is_no_best(results, message):
    with pytest.raises(ValueError, match=message):
        eval_result.best(results, "gauc", larger_is_better=True)


def test_a_file_that_cannot_be_written_is_an_os_error(tmp_path):
    with pytest.raises(OSError, match=os.strerror(21)):
        eval_result.append(tmp_path, 1, {"auc": 0.5})
