"""Experts that several tasks share, and what each task takes of them."""

import torch
from torch import Tensor, nn

from tzrec_core.modules.mlp import MLP, Layers


class MixtureOfExperts(nn.Module):
    """Multi-gate mixture of experts: [B, in_features] to one [B, out_features] per task.

    Ma et al., Modeling Task Relationships in Multi-task Learning with Multi-gate
    Mixture-of-Experts (KDD 2018): task k gets ``sum_i softmax(gate_k(x))_i expert_i(x)``, where the
    experts are the same for all tasks and a gate is a linear map of the input, or of an MLP over
    it.

    Args:
        in_features: Numbers per row.
        expert_layers: The layers of each expert.
        gate_layers: The layers below each gate's linear map, or None.
        num_experts: At least 1.
        num_tasks: Number of gates.
    """

    def __init__(
        self,
        in_features: int,
        *,
        expert_layers: Layers,
        gate_layers: Layers | None,
        num_experts: int,
        num_tasks: int,
    ) -> None:
        """Raises ValueError for layers that cannot be built, or if there is no expert."""
        super().__init__()
        if num_experts < 1:
            raise ValueError(f"num_expert must be at least 1, got {num_experts}")
        self.experts = nn.ModuleList(MLP(in_features, expert_layers) for _ in range(num_experts))
        self.gates = nn.ModuleList(
            _gate(in_features, gate_layers, num_experts) for _ in range(num_tasks)
        )
        self.out_features = expert_layers.hidden_units[-1]

    def forward(self, inputs: Tensor) -> list[Tensor]:
        opinions: list[Tensor] = []
        for expert in self.experts:
            opinions.append(expert(inputs))
        gates: list[Tensor] = []
        for gate in self.gates:
            gates.append(torch.softmax(gate(inputs), dim=1))
        # [B, tasks, experts] times [B, experts, out_features].
        mixtures = torch.bmm(torch.stack(gates, dim=1), torch.stack(opinions, dim=1))
        return list(mixtures.unbind(1))


def _gate(in_features: int, layers: Layers | None, num_experts: int) -> nn.Module:
    if layers is None:
        return nn.Linear(in_features, num_experts)
    mlp = MLP(in_features, layers)
    return nn.Sequential(mlp, nn.Linear(mlp.out_features, num_experts))
