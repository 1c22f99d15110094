import importlib
import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest

from tests.distributed.ranks import spawn
from tests.tzrec_core import clicks
from tzrec_core import command_line, eval_result
from tzrec_core.checkpoints import checkpoint

NUM_EVAL_ROWS = 301


@pytest.fixture(autouse=True)
def _leave_logging_as_it_was():
    handlers, level = logging.root.handlers[:], logging.root.level
    yield
    logging.root.handlers[:] = handlers
    logging.root.setLevel(level)


def call(command, *flags):
    importlib.import_module(f"tzrec_core.{command}").main([str(flag) for flag in flags])


def outcome(command, *flags):
    """What a rank's command ended with."""
    try:
        call(command, *flags)
    except ValueError as error:
        return str(error)
    return None


def run(capsys, command, *flags):
    """Runs a command as its process would; returns its exit code and what it says."""
    main = importlib.import_module(f"tzrec_core.{command}").main
    try:
        command_line.run(main, [str(flag) for flag in flags])
    except SystemExit as ended:
        return ended.code, capsys.readouterr().err
    return 0, capsys.readouterr().err


def edits(**values):
    return "--edit_config_json=" + json.dumps(
        {path.replace("__", "."): value for path, value in values.items()}
    )


def scores(folder):
    return pq.read_table(folder).to_pandas().sort_values("row", ignore_index=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a config, data, checkpoints of steps 4 and 8, and an export of the newest."""
    folder = tmp_path_factory.mktemp("commands")
    text = clicks.write(folder, train_rows=64 * 4, eval_rows=NUM_EVAL_ROWS)
    text = text.replace("save_checkpoints_steps: 1000", "save_checkpoints_steps: 4")
    # Describes CSV, for those tests that read one; it holds a column that is not always there.
    described = """fg_mode: FG_DAG with_header: true
        input_fields { input_name: "price" input_type: DOUBLE }
        input_fields { input_name: "click" input_type: INT64 }"""
    (folder / "my.config").write_text(text.replace("fg_mode: FG_DAG", described))
    call("train_eval", f"--pipeline_config_path={folder / 'my.config'}")
    call(
        "export",
        f"--pipeline_config_path={folder / 'my.config'}",
        f"--export_dir={folder / 'export'}",
    )
    return folder


def of_config(folder):
    return f"--pipeline_config_path={folder / 'my.config'}"


def of_rows(folder, output):
    return f"--predict_input_path={folder / 'eval.parquet'}", f"--predict_output_path={output}"


def test_training_prefers_flags_to_the_config_and_edits_to_flags(folder, tmp_path):
    call(
        "train_eval",
        of_config(folder),
        f"--model_dir={tmp_path / 'flag'}",
        edits(train_config__num_epochs=1),
    )
    call(
        "train_eval",
        of_config(folder),
        f"--model_dir={tmp_path / 'never'}",
        f"--train_input_path={tmp_path / 'never.parquet'}",
        edits(
            model_dir=str(tmp_path / "edit"),
            train_input_path=str(folder / "train.parquet"),
            train_config__num_epochs=1,
        ),
    )

    assert checkpoint.steps(tmp_path / "flag") == [4]
    assert checkpoint.steps(tmp_path / "edit") == [4]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["edit", "flag"]


def test_evaluation_takes_its_checkpoint_rows_and_result_file_from_flags(folder, tmp_path):
    pq.write_table(pq.read_table(folder / "eval.parquet").slice(0, 100), tmp_path / "few.parquet")
    mine = folder / "model" / "mine.txt"

    call("eval", of_config(folder), "--eval_result_filename=mine.txt")
    call(
        "eval",
        of_config(folder),
        "--eval_result_filename=mine.txt",
        f"--checkpoint_path={folder / 'model' / 'model.ckpt-4'}",
    )
    call(
        "eval",
        of_config(folder),
        "--eval_result_filename=few.txt",
        f"--eval_input_path={tmp_path / 'few.parquet'}",
    )
    call(
        "eval",
        of_config(folder),
        "--eval_result_filename=edited.txt",
        f"--eval_input_path={tmp_path / 'never.parquet'}",
        edits(eval_input_path=str(tmp_path / "few.parquet")),
    )

    results = {result.step: result.metrics for result in eval_result.read(mine)}
    in_training = eval_result.read(folder / "model" / "train_eval_result.txt")
    assert sorted(results) == [4, 8]
    assert results[4]["auc"] == pytest.approx(in_training[0].metrics["auc"], abs=1e-9)
    assert results[8]["auc"] == pytest.approx(in_training[-1].metrics["auc"], abs=1e-9)
    (few,) = eval_result.read(folder / "model" / "few.txt")
    (edited,) = eval_result.read(folder / "model" / "edited.txt")
    assert few == edited
    assert few.metrics["auc"] != results[8]["auc"]


def test_a_chosen_checkpoint_is_exported_and_scores_as_itself(folder, tmp_path):
    old = f"--checkpoint_path={folder / 'model' / 'model.ckpt-4'}"
    keep = "--reserved_columns=row"
    (tmp_path / "map.json").write_text("{}")
    (tmp_path / "words.txt").write_text("a")

    call(
        "export",
        of_config(folder),
        old,
        f"--export_dir={tmp_path / 'export'}",
        f"--asset_files={tmp_path / 'map.json'},{tmp_path / 'words.txt'}",
    )
    call(
        "predict",
        f"--scripted_model_path={tmp_path / 'export'}",
        keep,
        *of_rows(folder, tmp_path / "exported"),
    )
    call("predict", of_config(folder), old, keep, *of_rows(folder, tmp_path / "old"))
    call("predict", of_config(folder), keep, *of_rows(folder, tmp_path / "newest"))

    assert json.loads((tmp_path / "export" / "signature.json").read_text())["global_step"] == 4
    assert sorted(file.name for file in (tmp_path / "export" / "assets").iterdir()) == [
        "map.json",
        "words.txt",
    ]
    exported, of_old, of_newest = (
        scores(tmp_path / name)["probs"].to_numpy() for name in ("exported", "old", "newest")
    )
    np.testing.assert_allclose(exported, of_old, atol=1e-6)
    assert np.abs(of_newest - of_old).max() > 1e-3


@pytest.mark.parametrize("source", ["checkpoint", "export"])
def test_prediction_writes_the_columns_and_rows_that_flags_ask_for(folder, tmp_path, source):
    model = of_config(folder) if source == "checkpoint" else scripted(folder)
    few = ("--reserved_columns=row,user_id", "--output_columns=probs", "--predict_steps=3")

    call("predict", model, *of_rows(folder, tmp_path / "all"), "--reserved_columns=ALL_COLUMNS")
    call("predict", model, *of_rows(folder, tmp_path / "flags"), *few, "--batch_size=16")
    call(
        "predict",
        model,
        *of_rows(folder, tmp_path / "edits"),
        *few,
        "--batch_size=16",
        edits(data_config__eval_batch_size=8),
    )

    everything = scores(tmp_path / "all")
    inputs = pq.read_schema(folder / "eval.parquet").names
    assert list(everything.columns) == [*inputs, "logits", "probs"]
    assert len(everything) == NUM_EVAL_ROWS
    flags, edited = scores(tmp_path / "flags"), scores(tmp_path / "edits")
    assert list(flags.columns) == ["row", "user_id", "probs"]
    assert flags["row"].tolist() == list(range(48))  # steps of 16 rows, not the config's 64
    assert edited["row"].tolist() == list(range(24))
    np.testing.assert_allclose(flags["probs"], everything["probs"][:48], atol=1e-6)


@pytest.mark.parametrize("source", ["checkpoint", "export"])
def test_csv_without_labels_is_scored_by_a_model_of_parquet(folder, tmp_path, source):
    model = of_config(folder) if source == "checkpoint" else scripted(folder)
    rows = pq.read_table(folder / "eval.parquet").drop_columns(["click", "watch"])
    tags = ["\x1d".join(map(str, tags)) for tags in rows["tags"].to_pylist()]
    index = rows.schema.get_field_index("tags")
    pacsv.write_csv(rows.set_column(index, "tags", pa.array(tags)), tmp_path / "rows.csv")

    keep = "--reserved_columns=row"
    call("predict", model, keep, *of_rows(folder, tmp_path / "parquet"))
    call(
        "predict",
        model,
        keep,
        f"--predict_input_path={tmp_path / 'rows.csv'}",
        f"--predict_output_path={tmp_path / 'csv'}",
        "--dataset_type=CsvDataset",
    )

    expected, found = scores(tmp_path / "parquet"), scores(tmp_path / "csv")
    assert found["row"].tolist() == expected["row"].tolist()
    np.testing.assert_allclose(found["probs"], expected["probs"], atol=1e-6)


def scripted(folder):
    return f"--scripted_model_path={folder / 'export'}"


def test_a_file_of_another_kind_is_named(capsys, folder, tmp_path):
    code, said = run(
        capsys,
        "predict",
        scripted(folder),
        *of_rows(folder, tmp_path / "out"),
        "--dataset_type=CsvDataset",
    )

    assert code == 2
    assert said.startswith("error: ")
    assert "eval.parquet" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(
    ("command", "flags", "said"),
    [
        ("train_eval", ["--num_steps=3"], "unrecognized arguments: --num_steps=3"),
        ("train_eval", ["--continue"], "unrecognized arguments: --continue"),
        ("eval", ["--checkpoint=x"], "unrecognized arguments: --checkpoint=x"),
        ("export", ["--export_dir=x", "--asset=x"], "unrecognized arguments: --asset=x"),
        ("export", [], "required: --export_dir"),
        ("predict", ["--predict_threads=4"], "unrecognized arguments: --predict_threads=4"),
        ("predict", ["--is_profiling"], "unrecognized arguments: --is_profiling"),
        ("predict", ["--debug_level=1"], "unrecognized arguments: --debug_level=1"),
        ("predict", ["--batch=4"], "unrecognized arguments: --batch=4"),
        ("predict", ["--dataset_type=OdpsDataset"], "invalid choice: 'OdpsDataset'"),
        ("predict", ["--batch_size=0"], "--batch_size must be positive, got 0"),
        ("predict", ["--scripted_model_path=x"], "not allowed with argument"),
    ],
)
def test_a_flag_that_is_unknown_abbreviated_or_wrong_ends_with_code_2(
    capsys, folder, tmp_path, command, flags, said
):
    rows = of_rows(folder, tmp_path / "out") if command == "predict" else ()

    code, error = run(capsys, command, of_config(folder), *rows, *flags)

    assert code == 2
    assert said in error
    assert list(tmp_path.iterdir()) == []


def test_commands_on_two_ranks_do_what_they_do_on_one(folder, tmp_path):
    result_file = f"two-{tmp_path.name}.txt"
    keep = "--reserved_columns=row"
    export_dir = tmp_path / "export"

    spawn(call, 2, "export", of_config(folder), f"--export_dir={export_dir}")
    spawn(
        call, 2, "predict", f"--scripted_model_path={export_dir}", keep,
        *of_rows(folder, tmp_path / "two"),
    )  # fmt: skip
    spawn(call, 2, "predict", of_config(folder), keep, *of_rows(folder, tmp_path / "two-sharded"))
    spawn(call, 2, "eval", of_config(folder), f"--eval_result_filename={result_file}")
    call("predict", scripted(folder), keep, *of_rows(folder, tmp_path / "one"))

    assert len(list((tmp_path / "two").glob("part-*.parquet"))) == 2
    one = scores(tmp_path / "one")
    for name in ("two", "two-sharded"):
        two = scores(tmp_path / name)
        assert two["row"].tolist() == one["row"].tolist() == list(range(NUM_EVAL_ROWS))
        np.testing.assert_allclose(two["probs"], one["probs"], atol=1e-6)
    (result,) = eval_result.read(folder / "model" / result_file)
    in_training = eval_result.read(folder / "model" / "train_eval_result.txt")[-1]
    assert result.step == in_training.step
    assert result.metrics["auc"] == pytest.approx(in_training.metrics["auc"], abs=1e-9)


def test_every_rank_of_an_export_ends_as_the_first_does(folder):
    flags = (of_config(folder), f"--export_dir={folder / 'export'}")

    first, second = spawn(outcome, 2, "export", *flags)

    assert "exists; choose a new one" in first
    assert second == first
