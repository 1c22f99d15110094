import math

import pytest

from tests.distributed.ranks import run, spawn
from tests.tzrec_core import clicks
from tzrec_core.assembly import assemble, share_of_rows
from tzrec_core.checkpoints import checkpoint, restoring
from tzrec_core.config import loads
from tzrec_core.evaluation.evaluator import evaluate
from tzrec_core.training.trainer import train_and_evaluate


def train(text):
    config = loads(text, source="test")
    train_and_evaluate(config, continue_train=False, ignore_restore_optimizer=False)


class Watched:
    """Rows; notes what is in ``folder`` when the last of them is taken."""

    def __init__(self, rows, folder):
        self.rows, self.folder, self.seen = rows, folder, []

    def batches(self, epoch):
        yield from self.rows.batches(epoch)
        self.seen = sorted(path.name for path in self.folder.iterdir())


def evaluate_in(ranks, text, path, folder):
    """The metrics in memory and on disk, and what the folder holds at the end and after."""
    results = []
    for on_disk in (False, True):
        config = loads(text, source="test")
        config.eval_config.rows_on_disk = on_disk
        job = assemble(config, ranks)
        restoring.restore(path, ranks, model=job.model, optimizer=None)
        rows = Watched(share_of_rows(config, job.schema, ranks, training=False), folder)
        try:
            values = evaluate(config, job, rows, ranks, folder=folder)
        except ValueError as error:
            values = str(error)
        results.append((values, rows.seen))
    return results


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    text = clicks.write(folder, train_rows=64 * 2, eval_rows=201)
    spawn(train, 1, text)
    return text, checkpoint.latest(folder / "model")


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_rows_on_disk_give_the_same_metrics_and_leave_nothing_behind(trained, tmp_path, num_ranks):
    (tmp_path / ".tmp-killed").mkdir()
    (tmp_path / ".tmp-killed" / "rank-0-000000.parquet").touch()
    (tmp_path / ".tmp-killed.lock").touch()

    for (in_memory, before), (on_disk, meanwhile) in run(
        evaluate_in, num_ranks, *trained, tmp_path
    ):
        assert on_disk == pytest.approx(in_memory, abs=1e-12)
        assert not any(math.isnan(value) for value in in_memory.values())
        assert before == [".tmp-killed", ".tmp-killed.lock"]
        assert len(meanwhile) == 2  # the folder and its lock
        assert before != meanwhile
    assert list(tmp_path.iterdir()) == []


def test_an_error_on_two_ranks_is_the_same_and_leaves_nothing_behind(trained, tmp_path):
    text, path = trained
    text = text.replace("auc { thresholds: 0 }", 'auc { thresholds: 0 } label_name: "watch"')
    first, second = run(evaluate_in, 2, text, path, tmp_path)
    messages = {values for values, _ in (*first, *second)}
    assert messages == {"auc: 201 targets are neither 0 nor 1"}
    assert list(tmp_path.iterdir()) == []
