"""Linear layers on processors that torch's own library for matrix products serves badly."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from tzrec_core.machine import cpu_vendor


class Linear(nn.Linear):
    """``torch.nn.Linear`` that multiplies float32 matrices on a CPU with the faster library.

    On a CPU torch leaves float32 to MKL, which uses half the width of the vector units of
    processors that are not Intel's. oneDNN, which torch has for bfloat16, uses all of it: the three
    products of a training step take half the time there. Both round differently, by a few units
    in the last place. Whatever is not two-dimensional float32 on such a CPU, and what is scripted,
    is torch's own layer.
    """

    def forward(self, input: Tensor) -> Tensor:
        if torch.jit.is_scripting():  # type: ignore[attr-defined]
            return functional.linear(input, self.weight, self.bias)
        if not (_ONEDNN_IS_FASTER and _is_plain_float32(input, self.weight)):
            return super().forward(input)
        # Its backward pass needs the copy that this layout is.
        outputs = torch.ops.aten.mkldnn_linear(input.to_mkldnn(), self.weight, self.bias)
        dense: Tensor = outputs.to_dense()
        return dense


def _is_plain_float32(input: Tensor, weight: Tensor) -> bool:
    return (
        input.device.type == "cpu"
        and input.dtype == weight.dtype == torch.float32
        and input.dim() == 2
        and not torch.is_autocast_enabled("cpu")
    )


_ONEDNN_IS_FASTER = (
    torch.backends.mkldnn.is_available()
    and torch.backends.cpu.get_cpu_capability().startswith("AVX512")
    and cpu_vendor() != "GenuineIntel"
)
