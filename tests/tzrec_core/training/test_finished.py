import pytest

from tests.distributed.ranks import RankError, spawn
from tests.tzrec_core import clicks
from tests.tzrec_core.training.test_trainer import steps, train
from tzrec_core.checkpoints import checkpoint
from tzrec_core.training import finished
from tzrec_core.training.finished import Finished


def test_only_a_training_that_is_over_is_marked_as_finished(tmp_path):
    text = clicks.write(tmp_path, train_rows=128 * 5)
    edits = {"model_dir": str(tmp_path / "model"), "data_config.batch_size": 64}
    model_dir = tmp_path / "model"

    assert finished.read(model_dir) is None
    spawn(train, 2, steps(text, 4), edits)
    first = finished.read(model_dir)
    finished.unmark(model_dir)
    spawn(train, 1, steps(text, 4), edits, True)  # nothing is left to train
    again = finished.read(model_dir)
    diverging = {**edits, "train_config.dense_optimizer.sgd_optimizer.lr": 1e38}
    with pytest.raises(RankError, match="FloatingPointError"):
        spawn(train, 1, steps(text, 8), diverging, True)

    assert first == Finished(checkpoint.steps(model_dir)[-1], 2, None)
    assert again == Finished(4, 1, None)
    assert finished.read(model_dir) is None
