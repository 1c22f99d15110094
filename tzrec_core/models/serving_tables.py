"""Embedding tables as they are served, in one of three precisions; scriptable, plain torch."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tzrec_core.modules.quantization import dequantize_rows, half_rows, quantize_rows


def serving_table(weight: nn.Parameter, precision: str) -> nn.Module:
    """Returns the table that holds ``weight``, [N, D], in FP32, FP16 or INT8.

    Its ``forward(ids, starts, weights, mean)`` takes [V] int64, [B] int64 where each row's ids
    begin, and [V] float32 or None; it returns [B, D] float32 sums, or means.

    Raises:
        ValueError: There is no such precision, or it cannot hold the weight.
    """
    match precision:
        case "FP16":
            return HalfTable(weight.detach())
        case "INT8":
            return QuantizedTable(weight.detach())
        case "FP32":
            return FloatTable(weight)
    raise ValueError(f"precision must be FP32, FP16 or INT8, got {precision!r}")


def rounded(weight: Tensor, precision: str) -> Tensor:
    """Returns what a table of that precision holds of [N, D] float32, as float32.

    Raises:
        ValueError: As ``serving_table``.
    """
    match precision:
        case "FP16":
            return half_rows(weight).float()
        case "INT8":
            return dequantize_rows(*quantize_rows(weight))
        case "FP32":
            return weight
    raise ValueError(f"precision must be FP32, FP16 or INT8, got {precision!r}")


class FloatTable(nn.Module):
    """A table of float32."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, ids: Tensor, starts: Tensor, weights: Tensor | None, mean: bool) -> Tensor:
        return pooled(ids, self.weight, starts, weights, mean)


class HalfTable(nn.Module):
    """A table of float16; sums are float32."""

    weight: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.register_buffer("weight", half_rows(weight))

    def forward(self, ids: Tensor, starts: Tensor, weights: Tensor | None, mean: bool) -> Tensor:
        rows = self.weight.index_select(0, ids).float()
        return pooled(positions(rows), rows, starts, weights, mean)


class QuantizedTable(nn.Module):
    """A table of 8-bit codes with a scale and an offset for each row; sums are float32.

    Scale and offset lie side by side, which spares one access to memory for each id.
    """

    codes: Tensor
    scale_and_offset: Tensor

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        codes, scale, offset = quantize_rows(weight)
        self.register_buffer("codes", codes)
        self.register_buffer("scale_and_offset", torch.cat([scale, offset], dim=1))

    def forward(self, ids: Tensor, starts: Tensor, weights: Tensor | None, mean: bool) -> Tensor:
        scale, offset = self.scale_and_offset.index_select(0, ids).split(1, dim=1)
        rows = dequantize_rows(self.codes.index_select(0, ids), scale, offset)
        return pooled(positions(rows), rows, starts, weights, mean)


def positions(rows: Tensor) -> Tensor:
    """Returns 0 .. V - 1: every one of [V, D] rows once, in order."""
    return torch.arange(rows.size(0), device=rows.device)


def pooled(
    ids: Tensor, table: Tensor, starts: Tensor, weights: Tensor | None, mean: bool
) -> Tensor:
    """Returns [B, D] sums, or means, of the rows of ``table``; 0 for none."""
    if weights is None:
        return functional.embedding_bag(ids, table, starts, mode="mean" if mean else "sum")
    sums = functional.embedding_bag(ids, table, starts, mode="sum", per_sample_weights=weights)
    if not mean:
        return sums
    # TorchRec divides a weighted mean by the number of ids, not by the sum of their weights.
    ends = torch.cat([starts[1:], torch.full_like(starts[:1], ids.size(0))])
    return sums / (ends - starts).clamp(min=1).unsqueeze(1)
