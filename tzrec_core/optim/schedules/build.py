"""Learning rate schedules from their config messages."""

from collections.abc import Callable
from functools import partial

from tzrec_core.optim.schedules.formulas import (
    Schedule,
    constant,
    cosine_annealing,
    cosine_annealing_warm_restarts,
    exponential_decay,
    manual_step,
    warmed_up,
)
from tzrec_core.protos import optimizer_pb2, train_pb2

Scheduled = (
    optimizer_pb2.SparseOptimizer | optimizer_pb2.DenseOptimizer | optimizer_pb2.PartOptimizer
)
_WithWarmup = (
    optimizer_pb2.ExponentialDecayLR
    | optimizer_pb2.CosineAnnealingLR
    | optimizer_pb2.CosineAnnealingWarmRestartsLR
)


def build_schedules(config: train_pb2.TrainConfig) -> list[Schedule]:
    """Returns the schedules of the sparse optimizer, the dense one, and each part's, in order.

    A part that sets none has the dense optimizer's, from its own base rate.
    """
    dense = config.dense_optimizer
    return [
        build_schedule(config.sparse_optimizer, base_lr=base_lr(config.sparse_optimizer)),
        build_schedule(dense, base_lr=base_lr(dense)),
        *(
            build_schedule(
                part if part.WhichOneof("learning_rate") else dense, base_lr=base_lr(part)
            )
            for part in dense.part_optimizers
        ),
    ]


def base_lr(config: Scheduled) -> float:
    """Returns the ``lr`` of the optimizer that ``config`` selects."""
    kind = config.WhichOneof("optimizer")
    if kind is None:
        raise ValueError(f"{config.DESCRIPTOR.name} must have an optimizer, it has none")
    return float(getattr(config, kind).lr)


def build_schedule(config: Scheduled, *, base_lr: float) -> Schedule:
    """Returns the schedule that ``config`` selects, from ``base_lr``; 0 stays 0 in all of them."""
    kind = config.WhichOneof("learning_rate")
    if kind is None or kind == "constant_learning_rate" or base_lr == 0:
        return Schedule(partial(constant, base_lr=base_lr), by_epoch=False)
    by_epoch: bool = getattr(config, kind).by_epoch
    match kind:
        case "exponential_decay_learning_rate":
            decay = config.exponential_decay_learning_rate
            rate = _after_warmup(
                decay,
                base_lr,
                partial(
                    exponential_decay,
                    base_lr=base_lr,
                    decay_size=decay.decay_size,
                    decay_factor=decay.decay_factor,
                    staircase=decay.staircase,
                    floor=decay.min_learning_rate,
                ),
            )
        case "manual_step_learning_rate":
            manual = config.manual_step_learning_rate
            rate = partial(
                manual_step,
                base_lr=base_lr,
                sizes=tuple(manual.schedule_sizes),
                rates=tuple(manual.learning_rates),
                warmup=manual.warmup,
            )
        case "cosine_annealing_learning_rate":
            cosine = config.cosine_annealing_learning_rate
            rate = _after_warmup(
                cosine,
                base_lr,
                partial(
                    cosine_annealing,
                    base_lr=base_lr,
                    period=cosine.T_max,
                    floor=cosine.min_learning_rate,
                ),
            )
        case "cosine_annealing_warm_restarts_learning_rate":
            restarts = config.cosine_annealing_warm_restarts_learning_rate
            rate = _after_warmup(
                restarts,
                base_lr,
                partial(
                    cosine_annealing_warm_restarts,
                    base_lr=base_lr,
                    period=restarts.T_0,
                    growth=restarts.T_mult,
                    floor=restarts.min_learning_rate,
                ),
            )
        case _:
            raise ValueError(f"learning_rate must be one of the schema's, got {kind!r}")
    return Schedule(rate, by_epoch=by_epoch)


def _after_warmup(
    config: _WithWarmup, base_lr: float, then: Callable[[int], float]
) -> Callable[[int], float]:
    return partial(
        warmed_up,
        base_lr=base_lr,
        start=config.warmup_learning_rate,
        size=config.warmup_size,
        then=then,
    )
