"""What is kept of scored rows is all rows once, in the data's order, on any number of ranks."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tzrec_core.batch import NULL_ID
from tzrec_core.checkpoints import checkpoint
from tzrec_core.config import edit, loads
from tzrec_core.evaluation.evaluator import evaluate_checkpoint
from tzrec_core.evaluation.predictions import read_predictions, read_rows
from tzrec_core.evaluation.results import describe
from tzrec_core.metrics.bootstrap import interval
from tzrec_core.metrics.group_statistics import auc_statistics
from tzrec_core.training.trainer import train_and_evaluate

EDITS = {
    "eval_config.slices": [{"column": "row", "boundaries": [50, 180]}, {"column": "item"}],
    "data_config.eval_batch_size": 17,
}


def configured(text):
    config = loads(text, source="test")
    edit(config, EDITS)
    return config


def train(text):
    config = loads(text, source="test")
    train_and_evaluate(config, continue_train=False, ignore_restore_optimizer=False)


def evaluated(text, model, folder):
    return evaluate_checkpoint(
        configured(text),
        checkpoint_path=model,
        result_path=folder / "results.txt",
        predictions_path=folder / "predictions",
    )


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """The data, and by number of ranks what an evaluation kept and found."""
    folder = tmp_path_factory.mktemp("kept")
    text = clicks.write(folder, train_rows=64 * 2, eval_rows=201, group_rows=30)
    spawn(train, 1, text)
    model = checkpoint.latest(folder / "model")
    found = {}
    for num_ranks in (1, 2):
        own = folder / str(num_ranks)
        metrics, *_ = spawn(evaluated, num_ranks, text, model, own)
        found[num_ranks] = own / "predictions", metrics
    return text, folder / "eval.parquet", found


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_every_row_is_there_once_in_the_order_of_the_data(kept, num_ranks):
    _, path, found = kept
    data = pq.read_table(path)
    folder, _ = found[num_ranks]

    predictions = read_predictions(folder, key="user_id")

    assert len(list(folder.iterdir())) == num_ranks
    assert predictions.share == 1
    assert predictions.slices("row").to_pylist() == data["row"].to_pylist()
    assert predictions.slices("item").to_pylist() == data["item"].to_pylist()
    assert predictions.tensor("click").tolist() == data["click"].to_pylist()
    assert predictions.ids("user_id").tolist() == data["user_id"].to_pylist()
    np.testing.assert_allclose(predictions.tensor("watch"), data["watch"], rtol=1e-6)


def test_any_number_of_ranks_keeps_the_same(kept):
    _, _, found = kept
    one, two = (read_predictions(found[number][0], key=None) for number in (1, 2))

    assert one.table.column_names == two.table.column_names
    columns = [name for name in one.table.column_names if name != "probs"]
    assert one.is_of_the_same_rows_as(two, columns)
    torch.testing.assert_close(one.tensor("probs"), two.tensor("probs"))


def test_predictions_have_the_metrics_that_the_evaluation_found(kept):
    _, _, found = kept
    folder, metrics = found[2]
    predictions = read_predictions(folder, key=None)
    label, score = predictions.tensor("click"), predictions.tensor("probs").double()

    assert roc_auc_score(label, score) == pytest.approx(metrics["auc"], abs=1e-12)
    assert log_loss(label, score) == pytest.approx(metrics["binary_cross_entropy"], abs=1e-6)


def test_the_result_has_intervals_and_slices_as_computed_from_their_rows(kept):
    text, path, found = kept
    folder, metrics = found[2]
    config = configured(text)
    predictions = read_predictions(folder, key="user_id")

    result = describe(config, predictions, metrics, step=4)

    json.dumps(result, allow_nan=False)
    assert (result["global_step"], result["num_rows"]) == (4, 201)
    assert result["bootstrap_key"] == "user_id"
    by_name = result["metrics"]
    assert by_name["auc"]["value"] == metrics["auc"]
    assert by_name["auc"]["low"] < metrics["auc"] < by_name["auc"]["high"]
    coverage = by_name["grouped_auc"]["row_coverage"]
    assert coverage == metrics["grouped_auc_row_coverage"]
    assert by_name["binary_cross_entropy"]["low"] is None
    # Only the metrics themselves, each once.
    assert by_name.keys() == {"auc", "grouped_auc", "xauc", "binary_cross_entropy"}

    rows = pq.read_table(path)["row"].to_numpy()
    label, score, users = (
        predictions.tensor("click"),
        predictions.tensor("probs"),
        predictions.ids("user_id"),
    )
    by_row = [part for part in result["slices"] if part["column"] == "row"]
    assert [part["slice"] for part in by_row] == ["< 50", "50 to 180", ">= 180"]
    for part, mask in zip(
        by_row, (rows < 50, (rows >= 50) & (rows < 180), rows >= 180), strict=True
    ):
        assert part["rows"] == mask.sum()
        expected = interval(auc_statistics(score[mask], label[mask], users[mask]), seed=0)
        auc = part["metrics"]["auc"]
        assert auc == {"value": expected.value, "low": expected.low, "high": expected.high}
        assert auc["value"] == pytest.approx(roc_auc_score(label[mask], score[mask]), abs=1e-12)
    by_item = [part for part in result["slices"] if part["column"] == "item"]
    assert len(by_item) == 10
    assert sum(part["rows"] for part in by_item) == 201
    assert by_item[-1]["slice"] == "all others"


def test_of_too_many_rows_some_groups_are_taken_whole_and_it_is_said(kept, caplog):
    _, path, found = kept
    folder, _ = found[2]
    users = pq.read_table(path)["user_id"].to_numpy()

    predictions = read_predictions(folder, key="user_id", max_rows=100)

    taken = predictions.ids("user_id").numpy()
    assert 0 < len(taken) < 201
    assert predictions.share == len(taken) / 201
    assert {user: (taken == user).sum() for user in set(taken)} == {
        user: (users == user).sum() for user in set(taken)
    }
    assert "intervals and slices are of 1 / 3 of them" in caplog.text


def test_rows_without_a_key_come_back_without_one(tmp_path):
    table = pq.read_table
    text = clicks.write(tmp_path, train_rows=64, eval_rows=40)
    data = table(tmp_path / "eval.parquet")
    users = [None if row % 3 == 0 else user for row, user in enumerate(data["user_id"].to_pylist())]
    place = data.column_names.index("user_id")
    pq.write_table(
        data.set_column(place, "user_id", [users]), tmp_path / "eval.parquet", row_group_size=15
    )
    spawn(train, 1, text)
    spawn(evaluated, 1, text, checkpoint.latest(tmp_path / "model"), tmp_path)

    ids = read_predictions(tmp_path / "predictions", key="user_id").ids("user_id").tolist()

    assert ids == [NULL_ID if user is None else user for user in users]


def test_an_evaluation_that_fails_leaves_no_predictions(kept, tmp_path):
    text, path, _ = kept
    data = pq.read_table(path)
    place = data.column_names.index("click")
    clicks_ = [0] * 200 + [7]
    pq.write_table(data.set_column(place, "click", [clicks_]), tmp_path / "bad.parquet")
    text = text.replace(str(path), str(tmp_path / "bad.parquet"))

    with pytest.raises(RankError, match="label 'click' must be 0 or 1, got 7"):
        spawn(evaluated, 2, text, checkpoint.latest(path.parent / "model"), tmp_path / "out")

    assert not (tmp_path / "out" / "predictions").exists()
    assert not (tmp_path / "out" / "results.txt").exists()


def test_a_folder_without_predictions_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="has no predictions; run evaluate first"):
        read_predictions(tmp_path, key=None)


def test_of_too_many_rows_those_without_a_group_are_taken_as_often_as_others(tmp_path):
    rows = np.random.default_rng(0).permutation(12_000)
    has_group = rows % 2 == 0
    users = pa.array(rows // 4, mask=~has_group)
    table = pa.table({"@row": rows, "user@id": users, "click": rows})
    pq.write_table(table[:5000], tmp_path / "part-0.parquet")
    pq.write_table(table[5000:], tmp_path / "part-1.parquet")

    predictions = read_predictions(tmp_path, key="user", max_rows=3000)

    taken = predictions.tensor("click").numpy()
    with_group = (taken % 2 == 0).sum()
    assert with_group == pytest.approx(6000 / 4, rel=0.15)
    assert len(taken) - with_group == pytest.approx(6000 / 4, rel=0.15)
    assert read_rows(tmp_path).tolist() == list(range(12_000))
