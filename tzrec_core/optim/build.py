"""Optimizers from their config messages."""

from functools import partial

import torch
from torch.nn.utils import clip_grad_norm_, clip_grad_value_
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.distributed.ranks import Ranks
from tzrec_core.modules.gradient_gate import GradientGate
from tzrec_core.optim.averages import Averages
from tzrec_core.optim.dense import DenseFactory, combine, dense_parameters
from tzrec_core.optim.loss_scale import LossScale
from tzrec_core.optim.schedules.build import build_schedules
from tzrec_core.optim.sparse import SparseRule, fill_accumulators
from tzrec_core.optim.stepping import Clip, Stepper
from tzrec_core.protos import optimizer_pb2, train_pb2


def build_optimizer(
    config: optimizer_pb2.DenseOptimizer, model: DistributedModelParallel, rule: SparseRule
) -> CombinedOptimizer:
    """Returns the optimizer of the sharded ``model``, whose tables were given ``rule``.

    Raises:
        ValueError: The pattern of a part matches no parameter, or one that another part's matches.
    """
    parts = [(part.regex_pattern, build_dense_factory(part)) for part in config.part_optimizers]
    optimizer = combine(model, build_dense_factory(config), parts)
    if rule.initial_accumulator_value != 0:
        fill_accumulators(model.fused_optimizer, rule.initial_accumulator_value)
    return optimizer


def build_loss_scale(config: train_pb2.TrainConfig) -> LossScale | None:
    """Returns the scale of the loss, None if ``config`` has no ``grad_scaler``."""
    if not config.HasField("grad_scaler"):
        return None
    return LossScale(
        scale=config.grad_scaler.init_scale,
        growth_factor=config.grad_scaler.growth_factor,
        backoff_factor=config.grad_scaler.backoff_factor,
        growth_interval=config.grad_scaler.growth_interval,
    )


def build_stepper(
    config: train_pb2.TrainConfig,
    model: DistributedModelParallel,
    optimizer: CombinedOptimizer,
    ranks: Ranks,
    *,
    gate: GradientGate,
    loss_scale: LossScale | None,
) -> Stepper:
    """Returns what updates the sharded ``model`` with ``optimizer`` as ``config`` says.

    Args:
        config: Its schedules, clipping and averages count.
        model: From ``distributed.sharding.shard``.
        optimizer: From ``build_optimizer``.
        ranks: From ``distributed.ranks.process_group``.
        gate: The model's; closed here if the loss is scaled.
        loss_scale: What the model multiplies its loss by, if by anything.
    """
    averages = None
    if config.dense_optimizer.HasField("ema"):
        decay = config.dense_optimizer.ema.decay
        averages = Averages(dense_parameters(model), decay=decay)
    gate.is_closed = loss_scale is not None
    return Stepper(
        optimizer,
        ranks,
        schedules=build_schedules(config),
        clip=_clip(config.grad_clipping),
        gate=gate if gate.is_closed else None,
        loss_scale=loss_scale,
        averages=averages,
    )


def _clip(config: train_pb2.GradClipping) -> Clip | None:
    # Dense gradients are averaged over the ranks before: a norm is that of the whole gradient on
    # every rank, whatever enable_global_grad_clip says.
    match config.clipping_type:
        case "none":
            return None
        case "norm":
            return partial(
                clip_grad_norm_, max_norm=config.max_gradient, norm_type=config.norm_type
            )
        case "value":
            return partial(clip_grad_value_, clip_value=config.max_gradient)
        case kind:
            raise ValueError(f"clipping_type must be one of none, norm, value, got {kind!r}")


def build_dense_factory(
    config: optimizer_pb2.DenseOptimizer | optimizer_pb2.PartOptimizer,
) -> DenseFactory:
    """Returns what makes, from parameters, the dense optimizer that ``config`` selects."""
    match config.WhichOneof("optimizer"):
        case "sgd_optimizer":
            sgd_config = config.sgd_optimizer
            return partial(
                torch.optim.SGD,
                lr=sgd_config.lr,
                momentum=sgd_config.momentum,
                weight_decay=sgd_config.weight_decay,
                dampening=sgd_config.dampening,
                nesterov=sgd_config.nesterov,
                fused=_fused(sgd_config.fused),
            )
        case "adagrad_optimizer":
            adagrad_config = config.adagrad_optimizer
            return partial(
                torch.optim.Adagrad,
                lr=adagrad_config.lr,
                weight_decay=adagrad_config.weight_decay,
                initial_accumulator_value=adagrad_config.initial_accumulator_value,
                eps=adagrad_config.eps,
                fused=_fused(adagrad_config.fused),
            )
        case "adam_optimizer":
            return _adam(torch.optim.Adam, config.adam_optimizer)
        case "adamw_optimizer":
            return _adam(torch.optim.AdamW, config.adamw_optimizer)
        case "adadelta_optimizer":
            adadelta_config = config.adadelta_optimizer
            return partial(
                torch.optim.Adadelta,
                lr=adadelta_config.lr,
                rho=adadelta_config.rho,
                eps=adadelta_config.eps,
                weight_decay=adadelta_config.weight_decay,
            )
        case "rmsprop_optimizer":
            rmsprop_config = config.rmsprop_optimizer
            return partial(
                torch.optim.RMSprop,
                lr=rmsprop_config.lr,
                alpha=rmsprop_config.alpha,
                eps=rmsprop_config.eps,
                weight_decay=rmsprop_config.weight_decay,
            )
        case kind:
            supported = [
                field.name for field in config.DESCRIPTOR.oneofs_by_name["optimizer"].fields
            ]
            raise ValueError(f"a dense optimizer must be one of {', '.join(supported)}, got {kind}")


def _adam(
    optimizer_class: type[torch.optim.Adam],
    config: optimizer_pb2.AdamOptimizer | optimizer_pb2.AdamWOptimizer,
) -> DenseFactory:
    return partial(
        optimizer_class,
        lr=config.lr,
        betas=(config.beta1, config.beta2),
        weight_decay=config.weight_decay,
        eps=config.eps,
        amsgrad=config.amsgrad,
        fused=_fused(config.fused),
    )


def _fused(wanted: bool) -> bool | None:
    # Torch takes False for "the plain loop over parameters", None for "what is best without it".
    return True if wanted else None
