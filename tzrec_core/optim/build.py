"""Optimizers from their config messages."""

from functools import partial

import torch
from torchrec.distributed.model_parallel import DistributedModelParallel
from torchrec.optim.keyed import CombinedOptimizer

from tzrec_core.optim.dense import DenseFactory, combine
from tzrec_core.optim.sparse import SparseRule, adagrad, fill_accumulators, rowwise_adagrad, sgd
from tzrec_core.protos import optimizer_pb2


def build_sparse_rule(config: optimizer_pb2.SparseOptimizer) -> SparseRule:
    """Returns the update rule of embedding tables that ``config`` selects."""
    match config.WhichOneof("optimizer"):
        case "sgd_optimizer":
            chosen = config.sgd_optimizer
            return sgd(
                lr=chosen.lr,
                gradient_clipping=chosen.gradient_clipping,
                max_gradient=chosen.max_gradient,
            )
        case "adagrad_optimizer":
            chosen = config.adagrad_optimizer
            return adagrad(
                lr=chosen.lr,
                gradient_clipping=chosen.gradient_clipping,
                max_gradient=chosen.max_gradient,
                initial_accumulator_value=chosen.initial_accumulator_value,
            )
        case "rowwise_adagrad_optimizer":
            chosen = config.rowwise_adagrad_optimizer
            if chosen.weight_decay != 0:
                # FBGEMM's CPU kernel would train as if there were none.
                raise ValueError(
                    "sparse_optimizer.rowwise_adagrad_optimizer.weight_decay must be 0, "
                    f"got {chosen.weight_decay}"
                )
            return rowwise_adagrad(
                lr=chosen.lr,
                gradient_clipping=chosen.gradient_clipping,
                max_gradient=chosen.max_gradient,
            )
        case kind:
            raise ValueError(
                "sparse_optimizer must be one of sgd_optimizer, adagrad_optimizer, "
                f"rowwise_adagrad_optimizer, got {kind}"
            )


def build_optimizer(
    config: optimizer_pb2.DenseOptimizer, model: DistributedModelParallel, rule: SparseRule
) -> CombinedOptimizer:
    """Returns the optimizer of the sharded ``model``, whose tables were given ``rule``."""
    optimizer = combine(model, build_dense_factory(config))
    if rule.initial_accumulator_value != 0:
        fill_accumulators(model.fused_optimizer, rule.initial_accumulator_value)
    return optimizer


def build_dense_factory(config: optimizer_pb2.DenseOptimizer) -> DenseFactory:
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
            raise ValueError(f"dense_optimizer must be one of {', '.join(supported)}, got {kind}")


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
