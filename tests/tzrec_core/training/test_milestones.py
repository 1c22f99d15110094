from pathlib import Path

import pytest

from tests.distributed.ranks import run
from tzrec_core import eval_result
from tzrec_core.protos.pipeline_pb2 import EasyRecConfig
from tzrec_core.training.milestones import (
    RESULT_FILE,
    is_evaluated,
    results_so_far,
    steps_undisturbed,
)
from tzrec_core.training.progress import Progress


def config_of(**settings):
    config = EasyRecConfig(eval_input_path="eval")
    for name, value in {"save_checkpoints_steps": 0, **settings}.items():
        setattr(config.train_config, name, value)
    return config


@pytest.mark.parametrize(
    ("settings", "progress", "num_batches", "steps"),
    [
        ({"num_steps": 50}, Progress(step=20), None, 30),
        ({"num_steps": 50, "save_checkpoints_steps": 12}, Progress(step=20), 5, 4),
        ({"num_steps": 50, "save_checkpoints_epochs": 1}, Progress(step=5, epoch=1), 5, 5),
        ({"num_epochs": 4}, Progress(step=5, epoch=1), 5, 15),
        ({"num_epochs": 4, "save_checkpoints_epochs": 2}, Progress(step=5, epoch=1), 5, 5),
        # In the middle of an epoch, or without a count, only steps tell.
        ({"num_epochs": 4}, Progress(step=7, epoch=1, consumed={0: 8}), 5, None),
        ({"num_epochs": 4, "save_checkpoints_steps": 9}, Progress(step=7), None, 2),
        ({"num_epochs": 4}, Progress(), None, None),
        # The config has been shortened since.
        ({"num_steps": 10}, Progress(step=20), None, 0),
        ({"num_epochs": 1}, Progress(step=20, epoch=4), 5, 0),
    ],
)
def test_steps_up_to_the_next_checkpoint(settings, progress, num_batches, steps):
    assert steps_undisturbed(config_of(**settings), progress, num_batches=num_batches) == steps


def results_at(ranks, model_dir, step):
    """Returns the steps of the results, and whether ``step`` has one; rank 0 writes its own."""
    config = config_of(num_steps=50)
    config.model_dir = model_dir
    if ranks.rank == 0:
        eval_result.append(Path(model_dir) / RESULT_FILE, step, {"auc": 0.5})
    stands = Progress(step=step)
    results = results_so_far(config, ranks, stands)
    return [result.step for result in results], is_evaluated(config, ranks, stands)


def test_ranks_see_at_once_what_rank_0_has_written_and_nothing_of_later_steps(tmp_path):
    eval_result.append(tmp_path / RESULT_FILE, 2, {"auc": 0.5})
    eval_result.append(tmp_path / RESULT_FILE, 9, {"auc": 0.5})

    assert run(results_at, 2, str(tmp_path), 4) == [([2, 4], True)] * 2
