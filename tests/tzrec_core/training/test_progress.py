"""What a log line says of speed, waiting and memory."""

import pytest
import torch

from tests.distributed.ranks import run
from tests.tzrec_core.small_model import Rows
from tzrec_core.training import progress
from tzrec_core.training.progress import Progress, Window


class NoMetrics:
    def update(self, predictions, batch):
        pass

    def compute(self):
        return {}


class Clock:
    def __init__(self):
        self.now = 0.0

    def perf_counter(self):
        return self.now


def loaded(clock, seconds):
    """Batches of 8 rows, for each of which one waits some seconds."""
    for number, wait in enumerate(seconds):
        clock.now += wait
        yield Rows(48).batch(8 * number, 8 * number + 8)


def window_of(ranks, waits, computing):
    """Returns what two log lines of three steps say: of all waits, and of the last three."""
    clock, stands = Clock(), Progress()
    progress.time, real = clock, progress.time
    try:
        window = Window(ranks, NoMetrics(), lambda epoch, rows: "nowhere")
        lines = []
        for batch in window.timed(loaded(clock, waits[ranks.rank])):
            clock.now += computing
            window.add(({"total": torch.tensor(1.0)}, {}, batch), stands.advance({0: 8}))
            if stands.step == 2:  # an evaluation
                clock.now += 100.0
                window.pause(100.0)
            if stands.step % 3 == 0:
                lines.append(window.close())
        return lines
    finally:
        progress.time = real


def test_speed_and_waiting_share_are_of_the_time_between_log_lines_without_evaluations():
    [first, second] = run(window_of, 1, [[3.0, 0.0, 0.0, 1.0, 1.0, 0.0]], 2.0)[0]

    assert first["data_wait_share"] == pytest.approx(3 / 9)
    assert first["samples_per_second"] == pytest.approx(24 / 9)
    assert second["data_wait_share"] == pytest.approx(2 / 8)
    assert second["samples_per_second"] == pytest.approx(24 / 8)


def test_of_two_ranks_the_longest_wait_and_the_largest_memory_count():
    waits = [[1.0, 0.0, 0.0, 0.0, 0.0, 0.0], [0.0, 4.0, 2.0, 0.0, 0.0, 0.0]]
    [mine, others] = run(window_of, 2, waits, 2.0)

    for of_rank_0, of_rank_1 in zip(mine, others, strict=True):
        for name in ("data_wait_share", "memory/host_gib", "memory/host_peak_gib"):
            assert of_rank_0[name] == of_rank_1[name]
        assert 0 < of_rank_0["memory/host_gib"] <= of_rank_0["memory/host_peak_gib"]
    assert mine[0]["data_wait_share"] == pytest.approx(6 / 12)
    assert mine[0]["samples_per_second"] == pytest.approx(2 * 24 / 7)  # of rank 0's time
    assert mine[1]["data_wait_share"] == 0


def test_a_step_uses_the_rows_between_two_positions():
    stands = Progress(step=4, epoch=2, consumed={0: 64, 3: 10})

    used = stands.advance({3: 64, 5: 7})

    assert used == (5, 2, {3: (10, 64), 5: (0, 7)})
    assert stands == Progress(step=5, epoch=2, consumed={0: 64, 3: 64, 5: 7})
