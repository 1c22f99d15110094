"""Multi-layer perceptron."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor, nn
from torch.nn import functional

from tzrec_core.modules.activation import build_activation
from tzrec_core.modules.linear import Linear


@dataclass(frozen=True)
class Layers:
    """The layers of an MLP: everything but its input.

    Attributes:
        name: What the config calls it, for errors.
        hidden_units: Outputs of each layer.
        activation: Activation after each layer, for example ``nn.ReLU``; "" for none.
        dropout_ratio: Nothing, one ratio for all layers, or one per layer.
        use_bn: Batch norm before the activation; the linear layer then has no bias.
        use_ln: Layer norm before the activation.
        bias: Whether linear layers have a bias.
    """

    name: str
    hidden_units: Sequence[int]
    activation: str
    dropout_ratio: Sequence[float]
    use_bn: bool
    use_ln: bool
    bias: bool


class MLP(nn.Module):
    """Layers of linear, norm, activation and dropout: [B, in_features] to [B, out_features]."""

    def __init__(self, in_features: int, layers: Layers) -> None:
        """Raises ValueError for layers that cannot be built."""
        super().__init__()
        units = list(layers.hidden_units)
        if not units or min(units) < 1:
            raise ValueError(
                f"{layers.name}.hidden_units must be one or more positive numbers, got {units}"
            )
        if layers.use_bn and layers.use_ln:
            raise ValueError(f"{layers.name}: use_bn and use_ln exclude each other, got both")
        modules: list[nn.Module] = []
        for inputs, outputs, dropout in zip(
            [in_features, *units], units, _dropout_ratios(layers), strict=False
        ):
            modules.append(Linear(inputs, outputs, bias=layers.bias and not layers.use_bn))
            if layers.use_bn:
                modules.append(AnySizeBatchNorm(outputs))
            if layers.use_ln:
                modules.append(nn.LayerNorm(outputs))
            activation = build_activation(layers.activation)
            if isinstance(activation, nn.ReLU):
                # Nobody needs its input: in place it spares memory and a pass over it.
                activation.inplace = True
            modules.append(activation)
            if dropout > 0:
                modules.append(nn.Dropout(dropout))
        self.layers = nn.Sequential(*modules)
        self.out_features = units[-1]

    def forward(self, inputs: Tensor) -> Tensor:
        outputs: Tensor = self.layers(inputs)
        return outputs


class AnySizeBatchNorm(nn.BatchNorm1d):
    """Batch norm that takes batches of one row or none while training.

    One row has no variance and no row no mean: torch refuses the first, and lets the second turn
    the running statistics into NaN. Both occur at the end of an epoch; here they are normalised
    by the running statistics, which they leave alone.
    """

    def forward(self, input: Tensor) -> Tensor:
        if self.training and input.size(0) < 2:
            return functional.batch_norm(
                input,
                self.running_mean,
                self.running_var,
                self.weight,
                self.bias,
                training=False,
                eps=self.eps,
            )
        return super().forward(input)


def _dropout_ratios(layers: Layers) -> list[float]:
    ratios, count = list(layers.dropout_ratio), len(layers.hidden_units)
    if len(ratios) <= 1:
        ratios = (ratios or [0.0]) * count
    if len(ratios) != count:
        raise ValueError(
            f"{layers.name}.dropout_ratio must have one value or one per layer ({count}), "
            f"got {ratios}"
        )
    if not all(0 <= ratio < 1 for ratio in ratios):
        raise ValueError(f"{layers.name}.dropout_ratio must be in [0, 1), got {ratios}")
    return ratios
