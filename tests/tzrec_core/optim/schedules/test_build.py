"""Every schedule of the schema builds, with every field of its message."""

import pytest
from google.protobuf import text_format

from tzrec_core.optim.schedules.build import build_schedule, build_schedules
from tzrec_core.protos import optimizer_pb2, train_pb2

KINDS = optimizer_pb2.DenseOptimizer.DESCRIPTOR.oneofs_by_name["learning_rate"].fields
# Each differs from its default in every field, so that one that is not passed on changes a rate.
TEXTS = {
    "constant_learning_rate": "",
    "exponential_decay_learning_rate": """
        decay_size: 2 decay_factor: 0.5 staircase: false warmup_learning_rate: 0.25 warmup_size: 2
        min_learning_rate: 0.125""",
    "manual_step_learning_rate": """
        schedule_sizes: [2, 4] learning_rates: [0.5, 0.25] warmup: true""",
    "cosine_annealing_learning_rate": """
        T_max: 2 min_learning_rate: 0.5 warmup_learning_rate: 0.25 warmup_size: 2""",
    "cosine_annealing_warm_restarts_learning_rate": """
        T_0: 1 T_mult: 2 min_learning_rate: 0.5 warmup_learning_rate: 0.25 warmup_size: 2""",
}
RATES = {
    "constant_learning_rate": [1, 1, 1, 1, 1, 1, 1, 1, 1],
    "exponential_decay_learning_rate": [
        *(0.25, 0.625, 1, 0.5**0.5, 0.5, 0.5**1.5, 0.25, 0.5**2.5, 0.125)
    ],
    "manual_step_learning_rate": [1, 0.75, 0.5, 0.5, 0.25, 0.25, 0.25, 0.25, 0.25],
    "cosine_annealing_learning_rate": [0.25, 0.625, 1, 0.75, 0.5, 0.5, 0.5, 0.5, 0.5],
    # Periods of 1, 2 and 4 after the warm-up.
    "cosine_annealing_warm_restarts_learning_rate": [
        *(0.25, 0.625, 1, 1, 0.75, 1, 0.75 + 0.125 * 2**0.5, 0.75, 0.75 - 0.125 * 2**0.5)
    ],
}


def scheduled(kind, extra=""):
    return text_format.Parse(
        f"adam_optimizer {{ lr: 1 }} {kind} {{ {TEXTS[kind]} {extra} }}",
        optimizer_pb2.DenseOptimizer(),
    )


def rates(schedule, epoch=0):
    return [schedule.at(step=step, epoch=epoch) for step in range(9)]


@pytest.mark.parametrize("field", KINDS, ids=lambda field: field.name)
def test_every_schedule_has_every_field_of_its_message(field):
    schedule = build_schedule(scheduled(field.name), base_lr=1.0)

    assert rates(schedule) == pytest.approx(RATES[field.name])


@pytest.mark.parametrize("field", KINDS[1:], ids=lambda field: field.name)
def test_every_schedule_can_count_epochs(field):
    schedule = build_schedule(scheduled(field.name, "by_epoch: true"), base_lr=1.0)

    for epoch, rate in enumerate(RATES[field.name]):
        assert rates(schedule, epoch) == pytest.approx([rate] * 9)


@pytest.mark.parametrize("field", KINDS, ids=lambda field: field.name)
def test_a_rate_of_zero_stays_zero(field):
    assert rates(build_schedule(scheduled(field.name), base_lr=0.0)) == [0.0] * 9


def test_the_rate_is_constant_if_no_schedule_is_set():
    assert rates(build_schedule(optimizer_pb2.DenseOptimizer(), base_lr=0.25)) == [0.25] * 9


def test_a_part_has_its_own_schedule_or_the_dense_optimizers_from_its_own_rate():
    config = text_format.Parse(
        """
        sparse_optimizer { sgd_optimizer { lr: 8 } }
        dense_optimizer {
          adam_optimizer { lr: 1 }
          exponential_decay_learning_rate { decay_size: 1 decay_factor: 0.5 }
          part_optimizers { regex_pattern: "a" sgd_optimizer { lr: 4 } }
          part_optimizers { regex_pattern: "b" sgd_optimizer { lr: 2 } constant_learning_rate {} }
        }
        """,
        train_pb2.TrainConfig(),
    )

    schedules = build_schedules(config)

    assert [schedule.at(step=0, epoch=0) for schedule in schedules] == [8, 1, 4, 2]
    assert [schedule.at(step=1, epoch=0) for schedule in schedules] == [8, 0.5, 2, 2]
