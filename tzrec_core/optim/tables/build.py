"""Update rules of embedding tables from their config messages."""

from typing import TypedDict

from tzrec_core.optim import sparse
from tzrec_core.optim.sparse import Moments, SparseRule
from tzrec_core.protos import optimizer_pb2

CPU_ONLY = ("lars_sgd_optimizer", "adadelta_optimizer", "rmsprop_optimizer")
"""Optimizers that FBGEMM does not have on a GPU, or whose state TorchRec cannot save there."""

_MomentsMessage = (
    optimizer_pb2.FusedAdamOptimizer
    | optimizer_pb2.FusedLAMBOptimizer
    | optimizer_pb2.FusedPartialRowWiseAdamOptimizer
    | optimizer_pb2.FusedPartialRowWiseLAMBOptimizer
)
_Message = (
    _MomentsMessage
    | optimizer_pb2.FusedSGDOptimizer
    | optimizer_pb2.FusedAdagradOptimizer
    | optimizer_pb2.FusedRowWiseAdagradOptimizer
    | optimizer_pb2.FusedLarsSGDOptimizer
    | optimizer_pb2.FusedAdadeltaOptimizer
    | optimizer_pb2.FusedRMSpropOptimizer
)


class _Common(TypedDict):
    lr: float
    gradient_clipping: bool
    max_gradient: float


def build_sparse_rule(config: optimizer_pb2.SparseOptimizer, *, device_type: str) -> SparseRule:
    """Returns the update rule of embedding tables that ``config`` selects.

    Args:
        config: Selects one.
        device_type: Where the tables will be, "cpu" or "cuda".

    Raises:
        ValueError: There is no such rule on this kind of device.
    """
    kind = config.WhichOneof("optimizer")
    if device_type != "cpu" and kind in CPU_ONLY:
        raise ValueError(
            f"sparse_optimizer.{kind} is only for CPUs; on {device_type} it must be one of "
            + _names(but=CPU_ONLY)
        )
    match kind:
        case "sgd_optimizer":
            return sparse.sgd(**_common(config.sgd_optimizer))
        case "adagrad_optimizer":
            adagrad = config.adagrad_optimizer
            return sparse.adagrad(
                **_common(adagrad), initial_accumulator_value=adagrad.initial_accumulator_value
            )
        case "rowwise_adagrad_optimizer":
            return _rowwise_adagrad(config.rowwise_adagrad_optimizer, device_type)
        case "adam_optimizer":
            return _with_moments(sparse.ADAM, config.adam_optimizer, device_type)
        case "partial_rowwise_adam_optimizer":
            partial_adam = config.partial_rowwise_adam_optimizer
            return _with_moments(sparse.PARTIAL_ROWWISE_ADAM, partial_adam, device_type)
        case "lamb_optimizer":
            return _with_moments(sparse.LAMB, config.lamb_optimizer, device_type)
        case "partial_rowwise_lamb_optimizer":
            partial_lamb = config.partial_rowwise_lamb_optimizer
            return _with_moments(sparse.PARTIAL_ROWWISE_LAMB, partial_lamb, device_type)
        case "lars_sgd_optimizer":
            lars = config.lars_sgd_optimizer
            return sparse.lars_sgd(
                **_common(lars), momentum=lars.momentum, weight_decay=lars.weight_decay
            )
        case "adadelta_optimizer":
            adadelta = config.adadelta_optimizer
            return sparse.adadelta(
                **_common(adadelta),
                rho=adadelta.rho,
                eps=adadelta.eps,
                weight_decay=adadelta.weight_decay,
            )
        case "rmsprop_optimizer":
            rmsprop = config.rmsprop_optimizer
            return sparse.rmsprop(
                **_common(rmsprop),
                alpha=rmsprop.alpha,
                eps=rmsprop.eps,
                weight_decay=rmsprop.weight_decay,
            )
        case _:
            raise ValueError(f"sparse_optimizer must be one of {_names(but=())}, got {kind}")


def _names(*, but: tuple[str, ...]) -> str:
    oneof = optimizer_pb2.SparseOptimizer.DESCRIPTOR.oneofs_by_name["optimizer"]
    return ", ".join(field.name for field in oneof.fields if field.name not in but)


def _common(config: _Message) -> _Common:
    return {
        "lr": config.lr,
        "gradient_clipping": config.gradient_clipping,
        "max_gradient": config.max_gradient,
    }


def _rowwise_adagrad(
    config: optimizer_pb2.FusedRowWiseAdagradOptimizer, device_type: str
) -> SparseRule:
    if config.weight_decay == 0:
        return sparse.rowwise_adagrad(**_common(config))
    if config.weight_decay_mode == optimizer_pb2.NONE:
        # FBGEMM would train as if weight_decay were 0.
        raise ValueError(
            f"sparse_optimizer.rowwise_adagrad_optimizer.weight_decay is {config.weight_decay:g}; "
            "needs weight_decay_mode: L2 or DECOUPLE, got NONE"
        )
    return sparse.decayed_rowwise_adagrad(
        **_common(config),
        weight_decay=config.weight_decay,
        decoupled=config.weight_decay_mode == optimizer_pb2.DECOUPLE,
        device_type=device_type,
    )


def _with_moments(rule: Moments, config: _MomentsMessage, device_type: str) -> SparseRule:
    return sparse.with_moments(
        rule,
        **_common(config),
        beta1=config.beta1,
        beta2=config.beta2,
        weight_decay=config.weight_decay,
        device_type=device_type,
    )
