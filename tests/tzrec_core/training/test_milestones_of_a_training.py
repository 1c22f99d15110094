"""When a training saves, evaluates and ends, and which checkpoints stay."""

import json
import math

import pytest

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.training.test_trainer import results, steps, train, train_and_listen
from tzrec_core.checkpoints import checkpoint

STOPPING = "train_config.early_stopping"
EVERY_2 = {"train_config.save_checkpoints_steps": 2}


def first_stop(values, patience, min_delta):
    """Returns how many evaluations there are until the last ones brought nothing better."""
    best, since = -math.inf, 0
    for number, value in enumerate(values, start=1):
        if value > best + min_delta:
            best, since = value, number
        if number - since >= patience:
            return number
    return None


def test_ranks_stop_early_where_the_results_say_so_however_often_they_are_interrupted(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 6, eval_rows=300)
    edits = {**EVERY_2, "data_config.batch_size": 32, "data_config.eval_batch_size": 150}
    full, early, parts = tmp_path / "full", tmp_path / "early", tmp_path / "parts"
    spawn(train, 2, steps(text, 24), {**edits, "model_dir": str(full)})
    losses = [line["binary_cross_entropy"] for line in results(full)]
    assert len(losses) == 12
    # The first difference that would stop it after four evaluations or more, but before the end.
    min_delta, stop = next(
        (delta, stop)
        for delta in (k / 1000 for k in range(1, 200))
        if 4 <= (stop := first_stop([-loss for loss in losses], 2, delta) or 0) < 12
    )
    edits[STOPPING] = f"""
        metric: "binary_cross_entropy" metric_larger_is_better: false patience: 2
        min_delta: {min_delta}"""

    logged = spawn(train_and_listen, 2, steps(text, 24), {**edits, "model_dir": str(early)})
    for num_steps in (4, 6, 24):
        spawn(train, 2, steps(text, num_steps), {**edits, "model_dir": str(parts)}, True)

    assert results(early) == results(full)[:stop]
    assert results(parts) == results(early)
    assert checkpoint.steps(early) == checkpoint.steps(parts) == list(range(2, 2 * stop + 1, 2))
    [why] = [line for line in logged[0] if line.startswith("Stopping early")]
    value = losses[stop - 3]
    assert why == (
        f"Stopping early, after step {2 * stop}: binary_cross_entropy has not fallen by more than"
        f" {min_delta:g} in 2 evaluations, since step {2 * stop - 4} with {value:.6g}"
    )
    assert logged[0][-1] == "Train and Evaluate Finished."


def test_a_training_that_stopped_early_is_complete_until_its_patience_is_longer(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 10)
    frozen = {
        **EVERY_2,
        "train_config.sparse_optimizer.adagrad_optimizer.lr": 0,
        "train_config.dense_optimizer.sgd_optimizer.lr": 0,
        "train_config.num_epochs": 9,
    }
    spawn(train, 1, text, {**frozen, STOPPING: "patience: 1"})
    before = checkpoint.latest(tmp_path / "model").stat()

    [logged] = spawn(train_and_listen, 1, text, {**frozen, STOPPING: "patience: 1"}, True)
    assert checkpoint.latest(tmp_path / "model").stat() == before
    assert "is complete, as auc has not risen in 1 evaluations, since step 2 with" in logged[-1]

    spawn(train, 1, text, {**frozen, STOPPING: "patience: 3"}, True)
    assert [line["global_step"] for line in results(tmp_path / "model")] == [2, 4, 6, 8]


def test_early_stopping_without_evaluation_rows_is_refused_before_anything_is_written(tmp_path):
    text = clicks.write(tmp_path, train_rows=200)

    with pytest.raises(RankError, match="early_stopping needs eval_input_path"):
        spawn(train, 1, text, {STOPPING: "", "eval_input_path": ""})

    assert not (tmp_path / "model").exists()


# Of a model that starts from nothing the first checkpoint has the largest loss on what it learns.
WORST_IS_BEST = {
    "train_config.keep_checkpoint_max": 1,
    "export_config.exporter_type": "best",
    "export_config.best_exporter_metric": "binary_cross_entropy",
    "export_config.metric_larger_is_better": True,
}


@pytest.mark.parametrize(("every", "saved"), [(1, [4, 8, 12, 16, 20]), (2, [8, 16, 20])])
@pytest.mark.parametrize("in_background", [False, True])
def test_checkpoints_by_epochs_replace_those_by_steps_and_the_best_stays(
    tmp_path, every, saved, in_background
):
    text = clicks.write(tmp_path, train_rows=64 * 4)
    spawn(
        train,
        1,
        text,
        {
            **EVERY_2,
            **WORST_IS_BEST,
            "eval_input_path": str(tmp_path / "train.parquet"),
            "train_config.num_epochs": 5,
            "train_config.save_checkpoints_epochs": every,
            "train_config.save_checkpoints_async": in_background,
        },
    )

    losses = {r["global_step"]: r["binary_cross_entropy"] for r in results(tmp_path / "model")}
    assert list(losses) == saved
    assert max(losses, key=losses.get) == saved[0]
    assert checkpoint.steps(tmp_path / "model") == [saved[0], 20]


def test_results_of_a_training_whose_checkpoints_are_gone_do_not_count(tmp_path):
    text = clicks.write(tmp_path, train_rows=64 * 4)
    model_dir = tmp_path / "model"
    model_dir.mkdir()
    of_another = "".join(
        json.dumps({"global_step": step, "auc": 0.99}) + "\n" for step in (1, 2, 3)
    )
    (model_dir / "train_eval_result.txt").write_text(of_another)

    spawn(train, 1, steps(text, 6), {**EVERY_2, STOPPING: "patience: 2 min_delta: 0.5"})

    assert [line["global_step"] for line in results(model_dir)] == [2, 4, 6]
    assert (model_dir / "train_eval_result.txt.old").read_text() == of_another
