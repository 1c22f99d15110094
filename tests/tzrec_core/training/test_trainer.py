import json
import logging
import math
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.parquet as pq
import pytest
import torch

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.log_messages import messages
from tzrec_core.assembly import unsharded
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import check, edit, loads
from tzrec_core.training.trainer import train_and_evaluate


def train(text, edits, continue_train=False, ignore_restore_optimizer=False):
    config = loads(text, source="test")
    edit(config, edits)
    check(config)
    train_and_evaluate(
        config, continue_train=continue_train, ignore_restore_optimizer=ignore_restore_optimizer
    )


def train_and_listen(*arguments):
    """Trains; returns what this rank has logged."""
    with messages(logging.INFO) as said:
        train(*arguments)
    return said


def steps(text, num_steps):
    return text.replace("num_epochs: 2", f"num_steps: {num_steps}")


def weights(text, model_dir):
    path = checkpoint.latest(Path(model_dir))
    return unsharded(loads(text, source="test"), path).state_dict()


def results(model_dir):
    lines = (Path(model_dir) / "train_eval_result.txt").read_text().splitlines()
    return [json.loads(line) for line in lines]


def train_metrics(model_dir):
    """What the newest checkpoint has of the train metric: its sums over ranks, step by step."""
    path = checkpoint.latest(Path(model_dir))
    return checkpoint.read_position(path).state["train_metrics"]["auc"]["sums"]


def assert_same(ours, theirs, **tolerance):
    assert ours.keys() == theirs.keys()
    for name in ours:
        torch.testing.assert_close(ours[name], theirs[name], **tolerance)


# One rank sees windows 0 and 1 in its first batch, two ranks see one each, and so on; at the end
# the second rank has fewer rows than the first, or none.
@pytest.mark.parametrize("last_rows", [64 + 10, 10])
def test_two_ranks_train_the_model_that_one_rank_trains(tmp_path, last_rows):
    text = clicks.write(tmp_path, train_rows=128 * 5 + last_rows)
    one, two = str(tmp_path / "one"), str(tmp_path / "two")

    spawn(train, 1, text, {"model_dir": one, "data_config.batch_size": 128})
    spawn(train, 2, text, {"model_dir": two, "data_config.batch_size": 64})

    assert_same(weights(text, one), weights(text, two), atol=1e-5, rtol=1e-4)
    for name, value in results(one)[-1].items():
        assert results(two)[-1][name] == pytest.approx(value, abs=1e-4)


def test_training_learns(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 40, eval_rows=600)

    spawn(train, 1, text.replace("num_epochs: 2", "num_epochs: 4"), {})

    assert results(tmp_path / "model")[-1]["auc"] > 0.7
    assert results(tmp_path / "model")[-1]["binary_cross_entropy"] < math.log(2)


def test_continuing_equals_never_having_stopped(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 9 + 30)
    whole, parts = str(tmp_path / "whole"), str(tmp_path / "parts")
    shuffled = {"data_config.shuffle": True}

    spawn(train, 1, steps(text, 15), {**shuffled, "model_dir": whole})
    # Stops in the middle of the first epoch of ten steps, and again in the second.
    for num_steps in (4, 12, 15):
        spawn(train, 1, steps(text, num_steps), {**shuffled, "model_dir": parts}, True)

    assert_same(weights(text, whole), weights(text, parts), atol=0, rtol=0)
    # One decay step, before which the first and after which the second part has stopped.
    assert sum(train_metrics(whole)["decayed"]) == 64 * 9 + 30
    assert train_metrics(whole) == train_metrics(parts)
    assert [line["global_step"] for line in results(parts)] == [4, 12, 15]


def test_an_epoch_starts_over_when_the_order_of_its_rows_has_changed(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 10)
    spawn(train, 1, steps(text, 4), {})
    clicks.write(tmp_path, train_rows=64 * 10, group_rows=32)

    spawn(train, 1, text.replace("num_epochs: 2", "num_epochs: 1"), {}, True)

    assert checkpoint.steps(tmp_path / "model") == [4, 4 + 10]


def test_a_checkpoint_of_one_rank_continues_on_two(tmp_path):
    text = clicks.write(tmp_path, train_rows=128 * 6)
    model_dir = str(tmp_path / "model")
    one = str(tmp_path / "one")
    half = {"train_config.num_epochs": 1}

    spawn(train, 1, text, {**half, "model_dir": model_dir, "data_config.batch_size": 128})
    spawn(train, 2, text, {"model_dir": model_dir, "data_config.batch_size": 64}, True)
    spawn(train, 1, text, {"model_dir": one, "data_config.batch_size": 128})

    assert_same(weights(text, one), weights(text, model_dir), atol=1e-5, rtol=1e-4)
    of_one, of_two = train_metrics(one), train_metrics(model_dir)
    for name in ("decayed", "recent"):  # but rounding may take a score to the next bin
        assert sum(of_one[name]) == sum(of_two[name]) > 0
        assert of_one[name] == pytest.approx(of_two[name], abs=3)


def test_a_complete_training_is_left_as_it_is(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    spawn(train, 1, text, {})
    before = checkpoint.latest(tmp_path / "model").stat()

    said, on_rank_1 = spawn(train_and_listen, 2, text, {}, True)

    assert checkpoint.latest(tmp_path / "model").stat() == before
    assert "model.ckpt-8 is complete; there is nothing left to train" in said[-1]
    assert on_rank_1 == []
    assert len(results(tmp_path / "model")) == 1


def test_a_folder_with_checkpoints_is_not_trained_into_by_accident(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    spawn(train, 1, text, {})

    with pytest.raises(RankError, match=r"already holds model\.ckpt-8; pass --continue_train"):
        spawn(train, 1, text, {})


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    spawn(train, 1, text, {})
    other = {"feature_configs[0].id_feature.num_buckets": 41, "train_config.num_epochs": 3}

    before = (tmp_path / "model" / "pipeline.config").read_text()

    with pytest.raises(RankError, match=r"ValueError.*user_emb"):
        spawn(train, 1, text, other, True)

    assert (tmp_path / "model" / "pipeline.config").read_text() == before


@pytest.mark.parametrize(
    ("edits", "error"),
    [
        # A continuous label for a metric of classes.
        ({"model_config.metrics[0].label_name": "watch"}, "auc: .* targets are neither 0 nor 1"),
        ({"eval_input_path": "nowhere.parquet"}, "nowhere.parquet"),
        ({"data_config.label_fields": ["watch"]}, "label 'watch' must be 0 or 1"),
        ({"train_config.fine_tune_checkpoint": "nowhere"}, "nowhere is no checkpoint"),
    ],
)
def test_what_is_wrong_is_known_before_anything_is_written(tmp_path, edits, error):
    text = clicks.write(tmp_path, train_rows=200)

    with pytest.raises(RankError, match=error):
        spawn(train, 1, text, edits)

    assert not (tmp_path / "model").exists()


def test_fine_tuning_starts_from_the_weights_at_step_0(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    spawn(train, 1, text, {})
    tuned = {
        "model_dir": str(tmp_path / "tuned"),
        "train_config.fine_tune_checkpoint": str(tmp_path / "model"),
        "train_config.sparse_optimizer.adagrad_optimizer.lr": 0.0,
        "train_config.dense_optimizer.sgd_optimizer.lr": 0.0,
    }

    spawn(train, 1, text, tuned, False, True)

    assert_same(weights(text, tmp_path / "model"), weights(text, tmp_path / "tuned"))
    assert results(tmp_path / "tuned")[0]["global_step"] == 8
    assert sum(train_metrics(tmp_path / "tuned")["recent"]) == 2 * 200


def test_optimizers_begin_anew_if_their_state_is_not_to_be_restored(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 4)
    one, two = {"train_config.num_epochs": 1}, {"train_config.num_epochs": 2}
    ours, tuned, whole = (str(tmp_path / name) for name in ("ours", "tuned", "whole"))
    spawn(train, 1, text, {**one, "model_dir": ours})
    weights_only = {"train_config.fine_tune_checkpoint": ours}
    spawn(train, 1, text, {**one, **weights_only, "model_dir": tuned}, False, True)
    spawn(train, 1, text, {**two, "model_dir": whole})

    spawn(train, 1, text, {**two, "model_dir": ours}, True, True)

    # The second epoch has the rows of the first, in the same order.
    assert_same(weights(text, ours), weights(text, tuned), atol=0, rtol=0)
    name = "model.embeddings.deep.embedding_bags.user_emb.weight"
    assert not torch.allclose(weights(text, ours)[name], weights(text, whole)[name])


def write_as_csv(path, *bounds):
    """Writes rows of a Parquet file into CSV files, from each of ``bounds`` to the next."""
    table = pq.read_table(path)
    tags = ["\x1d".join(map(str, of_row)) for of_row in table["tags"].to_pylist()]
    table = table.set_column(table.schema.get_field_index("tags"), "tags", pa.array(tags))
    for number, (start, stop) in enumerate(pairwise(bounds)):
        pacsv.write_csv(
            table.slice(start, stop - start), path.with_name(f"{path.stem}-{number}.csv")
        )


def test_csv_files_of_unequal_length_train_and_evaluate_on_two_ranks(tmp_path):
    text = clicks.write(tmp_path, train_rows=305, eval_rows=143).replace(".parquet", "-*.csv")
    write_as_csv(tmp_path / "train.parquet", 0, 300, 305)
    write_as_csv(tmp_path / "eval.parquet", 0, 140, 143)
    edits = {
        "data_config.dataset_type": "CsvDataset",
        "data_config.with_header": True,
        "train_config.num_epochs": 1,
    }

    spawn(train, 2, text, edits)

    assert sum(train_metrics(tmp_path / "model")["recent"]) == 305
    [of_two] = results(tmp_path / "model")
    (tmp_path / "model" / "train_eval_result.txt").unlink()
    spawn(train, 1, text, edits, True)  # only evaluates
    [of_one] = results(tmp_path / "model")
    assert of_one == pytest.approx(of_two, abs=1e-6)


def test_a_loss_that_is_not_finite_ends_the_training_without_a_checkpoint(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)
    diverging = {"train_config.dense_optimizer.sgd_optimizer.lr": 1e30}

    with pytest.raises(RankError, match="FloatingPointError: the loss binary_cross_entropy became"):
        spawn(train, 1, text, diverging)

    assert checkpoint.steps(tmp_path / "model") == []


@pytest.mark.parametrize("length", ["num_steps", "num_epochs"])
def test_an_epoch_without_a_batch_is_an_error_and_not_an_endless_loop(tmp_path, length):
    text = clicks.write(tmp_path, train_rows=50).replace("num_epochs", length)

    with pytest.raises(RankError, match="no batch to train on: 50 rows, batch_size 64 on 1 ranks"):
        spawn(train, 1, text, {"data_config.drop_remainder": True})

    assert checkpoint.steps(tmp_path / "model") == []


def test_old_checkpoints_are_deleted_but_never_the_best(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 4)
    spawn(
        train,
        1,
        text,
        {
            "train_config.save_checkpoints_steps": 2,
            "train_config.keep_checkpoint_max": 2,
            "export_config.exporter_type": "best",
            # On what a model learns from nothing its first checkpoint has the largest loss.
            "eval_input_path": str(tmp_path / "train.parquet"),
            "export_config.best_exporter_metric": "binary_cross_entropy",
            "export_config.metric_larger_is_better": True,
        },
    )

    saved = checkpoint.steps(tmp_path / "model")
    losses = {r["global_step"]: r["binary_cross_entropy"] for r in results(tmp_path / "model")}
    worst = max(losses, key=losses.get)
    assert worst < 6
    assert saved == [worst, 6, 8]


def test_a_best_metric_without_a_value_does_not_end_the_training(tmp_path):
    # With two evaluation rows no user has a click and a row without one.
    text = clicks.write(tmp_path, train_rows=64 * 3, eval_rows=2)
    spawn(
        train,
        1,
        text,
        {
            "train_config.save_checkpoints_steps": 2,
            "train_config.keep_checkpoint_max": 2,
            "export_config.exporter_type": "best",
            "export_config.best_exporter_metric": "grouped_auc",
        },
    )

    assert {line["grouped_auc"] for line in results(tmp_path / "model")} == {None}
    assert checkpoint.steps(tmp_path / "model") == [4, 6]
