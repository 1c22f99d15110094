import json

from tzrec_core import tracking
from tzrec_core.report import training_curves


def test_log_lines_are_those_that_the_training_logged_last(tmp_path):
    for first, factor in ((1, 1.0), (21, 2.0)):  # the second one goes on after step 20
        logger = tracking.TensorBoardLogger(tmp_path, first_step=first)
        for step in range(first + 9, 41, 10):
            values = {"loss/total": factor * step, "samples_per_second": 100.0, "lr/dense": 0.1}
            logger.log(values | {"memory/host_peak_gib": factor, "data_wait_share": 0.5}, step)
        logger.close()
    found = training_curves.log_lines(tmp_path)

    loss = found["loss/total"]
    assert dict(zip(loss.x, loss.y, strict=True)) == {10: 10, 20: 20, 30: 60, 40: 80}
    assert "lr/dense" not in found
    assert training_curves.summary(found) == {
        "samples_per_second": 100.0,
        "data_wait_share": 0.5,
        "memory/host_peak_gib": 2.0,
    }


def test_without_event_files_there_is_nothing(tmp_path):
    assert training_curves.log_lines(tmp_path) == {}
    assert training_curves.summary({}) == {}


def test_evaluations_leave_out_what_has_no_value(tmp_path):
    path = tmp_path / "train_eval_result.txt"
    lines = [{"global_step": 10, "auc": 0.6, "x": None}, {"global_step": 20, "auc": None}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = training_curves.evaluations(path)

    assert list(found) == ["auc"]
    assert (found["auc"].x.tolist(), found["auc"].y.tolist()) == ([10], [0.6])
    assert training_curves.evaluations(tmp_path / "none") == {}
