"""What a user sees who makes a mistake: one clear error, exit code 2, nothing half-written."""

import json
import logging
import signal

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from components import cli, steps
from tests import pipeline_inputs


@pytest.fixture(autouse=True)
def _leave_the_process_as_it_was():
    handler, handlers = signal.getsignal(signal.SIGTERM), logging.root.handlers[:]
    level = logging.root.level
    yield
    signal.signal(signal.SIGTERM, handler)
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


@pytest.fixture
def raw(tmp_path):
    return pipeline_inputs.write_click_logs(tmp_path / "raw.parquet", num_rows=500, seed=0)


def run(capsys, *arguments):
    """Runs a step's command; returns its exit code and what it says of the error."""
    code, said = streams(capsys, *arguments)
    return code, said.err


def streams(capsys, *arguments):
    """Runs a step's command; returns its exit code and all that it says."""
    code = 0
    try:
        steps.run(cli.main, [str(argument) for argument in arguments])
    except SystemExit as ended:
        code = ended.code
    return code, capsys.readouterr()


def prepare(capsys, tmp_path, raw, config=pipeline_inputs.CONFIG, *more):
    return run(capsys, *prepare_command(tmp_path, raw, config), *more)


def prepare_command(tmp_path, raw, config):
    path = tmp_path / "my.config"
    path.write_text(config)
    return [
        "prepare_data", f"--pipeline_config={path}", f"--train_input_path={raw}",
        f"--run_dir={tmp_path / 'run'}",
    ]  # fmt: skip


def changed(raw, **columns):
    table = pq.read_table(raw)
    for name, column in columns.items():
        index = table.schema.get_field_index(name)
        if column is None:
            table = table.remove_column(index)
        else:
            table = table.set_column(index, name, column)
    pq.write_table(table, raw)
    return raw


def first_null(raw, name):
    column = pq.read_table(raw)[name].to_pylist()
    return changed(raw, **{name: pa.array([None, *column[1:]])})


def assert_refused(outcome, tmp_path, *fragments):
    code, said = outcome
    assert code == 2, said
    assert said.startswith("error: ")
    assert "Traceback" not in said
    for fragment in fragments:
        assert fragment in said
    data = tmp_path / "run" / "data"
    assert not data.exists() or list(data.iterdir()) == []
    assert not (tmp_path / "run" / "pipeline.config").exists()


def test_a_missing_column(capsys, tmp_path, raw):
    outcome = prepare(capsys, tmp_path, changed(raw, city=None))
    assert_refused(outcome, tmp_path, "column 'city', needed as feature 'city'", "age, click")


def test_a_column_of_the_wrong_type(capsys, tmp_path, raw):
    outcome = prepare(capsys, tmp_path, changed(raw, age=pa.array(["old"] * 500)))
    assert_refused(outcome, tmp_path, "age", "old")


def test_a_null_label(capsys, tmp_path, raw):
    outcome = prepare(capsys, tmp_path, first_null(raw, "click"))
    assert_refused(outcome, tmp_path, "raw.parquet", "click", "1", "null")


def test_an_empty_input(capsys, tmp_path, raw):
    pq.write_table(pq.read_table(raw).slice(0, 0), raw)
    assert_refused(prepare(capsys, tmp_path, raw), tmp_path, "raw.parquet", "no rows")


def test_an_input_that_is_not_there(capsys, tmp_path):
    outcome = prepare(capsys, tmp_path, tmp_path / "nope" / "*.parquet")
    assert_refused(outcome, tmp_path, "nope")


def test_a_truncated_parquet_file(capsys, tmp_path, raw):
    raw.write_bytes(raw.read_bytes()[:-100])
    assert_refused(prepare(capsys, tmp_path, raw), tmp_path, "raw.parquet")


def test_a_damaged_row_group(capsys, tmp_path, raw):
    content = bytearray(raw.read_bytes())
    content[10:2000] = np.random.default_rng(0).bytes(1990)
    raw.write_bytes(bytes(content))
    assert_refused(prepare(capsys, tmp_path, raw), tmp_path, "raw.parquet")


def test_a_csv_row_with_too_few_fields(capsys, tmp_path, raw):
    path = tmp_path / "raw.csv"
    pacsv.write_csv(pq.read_table(raw), path)
    lines = path.read_text().splitlines()
    lines[123] = "1.5,city 3"
    path.write_text("\n".join(lines) + "\n")
    config = pipeline_inputs.CONFIG.replace(
        "dataset_type: ParquetDataset", "dataset_type: CsvDataset with_header: true"
    )
    assert_refused(prepare(capsys, tmp_path, path, config), tmp_path, "raw.csv", "124", "4")


def test_ids_outside_their_range_are_counted_and_said(capsys, tmp_path, raw):
    users = pq.read_table(raw)["user_id"].to_numpy().copy()
    users[:7] = [50, 51, -1, 99, 1000, -5, 50]
    config = pipeline_inputs.CONFIG.replace("batch_size: 128", "batch_size: 128 num_workers: 0")

    command = prepare_command(tmp_path, changed(raw, user_id=pa.array(users)), config)
    code, said = streams(capsys, *command)

    assert code == 0
    (path,) = (tmp_path / "run" / "data").glob("*/_stats.json")
    stats = json.loads(path.read_text())
    outside = {s: stats[s]["columns"]["user_id"]["out_of_vocabulary"] for s in ("train", "eval")}
    assert sum(outside.values()) == 7
    (warning,) = [line for line in said.out.splitlines() if "[WARNING]" in line]
    assert "feature user_id: values outside its range" in warning
    for share, count in outside.items():
        assert (f"{count} in {share} ({count / stats[share]['rows']:.2%}" in warning) == (count > 0)
    assert warning.endswith("they are left out, rows without any other have no id and embedding 0")
    printed = json.loads(said.out[said.out.index("{\n") :])["statistics"]
    assert printed["train_max_out_of_vocabulary_share"] == outside["train"] / stats["train"]["rows"]
    assert printed["eval_max_out_of_vocabulary_share"] == outside["eval"] / stats["eval"]["rows"]
    parts = (tmp_path / "run" / "data").glob("*/*/part-*.parquet")
    ids = pa.concat_tables([pq.read_table(part, columns=["user_id"]) for part in parts])
    assert ids["user_id"].null_count == 7


def test_an_unknown_field_of_the_config(capsys, tmp_path, raw):
    config = pipeline_inputs.CONFIG.replace("num_class: 1", "num_clas: 1")
    line = config[: config.index("num_clas:")].count("\n") + 1
    outcome = prepare(capsys, tmp_path, raw, config)
    assert_refused(outcome, tmp_path, f"my.config:{line}: model_config.num_clas", "num_class")


def test_a_model_that_is_not_supported(capsys, tmp_path, raw):
    config = pipeline_inputs.CONFIG.replace("multi_tower {", "mind {")
    outcome = prepare(capsys, tmp_path, raw, config)
    assert_refused(outcome, tmp_path, "model_config.mind is not supported", "deepfm, dlrm")


@pytest.mark.parametrize(
    ("written", "mistaken", "message"),
    [
        ("mlp { hidden_units: 8 }", 'mlp { hidden_units: 8 activation: "nn.Relu6" }', "nn.Relu6"),
        ("num_buckets: 50", 'num_buckets: 50 init_fn: "nn.init.normal"', "nn.init.normal"),
    ],
)
def test_a_model_that_cannot_be_built_is_refused_before_rows_are_looked_for(
    capsys, tmp_path, written, mistaken, message
):
    assert written in pipeline_inputs.CONFIG
    config = pipeline_inputs.CONFIG.replace(written, mistaken)
    outcome = prepare(capsys, tmp_path, tmp_path / "none.parquet", config)
    assert_refused(outcome, tmp_path, message)
    assert not (tmp_path / "run").exists()


def test_an_edit_that_matches_nothing(capsys, tmp_path, raw):
    edit = '--edit_config_json={"feature_configs[id_feature.feature_name=town].id_feature": "{}"}'
    outcome = prepare(capsys, tmp_path, raw, pipeline_inputs.CONFIG, edit)
    assert_refused(outcome, tmp_path, "feature_configs", "town")


def test_a_grouping_key_that_is_not_in_the_data(capsys, tmp_path, raw):
    config = pipeline_inputs.CONFIG.replace('grouping_key: "user_id"', 'grouping_key: "session"')
    outcome = prepare(capsys, tmp_path, raw, config)
    assert_refused(outcome, tmp_path, "session", "grouping key", "city")


def test_a_run_directory_that_cannot_be_written(capsys, tmp_path, raw):
    (tmp_path / "run").write_text("a file is in the way")
    code, said = prepare(capsys, tmp_path, raw)
    assert code == 2
    assert said.startswith("error: ")
    assert str(tmp_path / "run") in said


def test_a_step_before_its_turn(capsys, tmp_path):
    code, said = run(capsys, "train", f"--run_dir={tmp_path / 'run'}")
    assert code == 2
    assert "run prepare_data on this run_dir first" in said


def test_an_unknown_flag(capsys, tmp_path):
    code, said = run(capsys, "train", f"--run_dir={tmp_path}", "--num_process=2")
    assert code == 2
    assert "unrecognized arguments: --num_process=2" in said
