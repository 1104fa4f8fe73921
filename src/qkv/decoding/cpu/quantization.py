"""Matrices of 8-bit integers: for decoding on a CPU, where they take a quarter of the memory and less time.

Every output channel's weights have a scale of their own, and so has every row of inputs, which is found as it comes
along (Bhandare et al. 2019, "Efficient 8-bit quantization of Transformer neural machine language translation model").
So what comes of a row does not depend on the rows beside it. Sums are 32-bit integers; all between matrix products
stays float32.
"""

import warnings

import torch
from jaxtyping import Float
from torch import Tensor

from qkv.decoding.cpu.linear_maps import MadeLinear, with_linear_maps
from qkv.nn.seq2seq import Seq2Seq

_LEVELS, _ZERO = 63, 64
"""An input between -1 and 1 becomes an integer from 1 to 127."""


class QuantizedLinear(MadeLinear):
    """What `nn.Linear` does, in 8 bits; on a CPU alone, and not to be trained.

    Inputs take 7 bits, as AVX2's instruction adds two products in 16. The bias is added in float32. See `MadeLinear`.
    """

    def __init__(self, weight: Float[Tensor, "out_features in_features"], bias: Float[Tensor, " out_features"] | None):
        super().__init__(weight, bias)
        weight = weight.detach().float()
        scales = weight.abs().amax(dim=1).clamp(min=1e-12).double() / 127
        zeros = torch.zeros(self.out_features, dtype=torch.int64)
        with warnings.catch_warnings():
            # torch means to replace its quantised tensors some day; what is kept here is the packed matrix alone.
            warnings.simplefilter("ignore")
            quantized = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        engine = torch.backends.quantized.engine
        torch.backends.quantized.engine = "fbgemm"
        try:
            self._packed = torch.ops.quantized.linear_prepack(quantized, None)
        finally:
            torch.backends.quantized.engine = engine

    def forward(self, x: Float[Tensor, "*rows in_features"]) -> Float[Tensor, "*rows out_features"]:
        """The map's approximation, in float32."""
        scale = x.abs().amax(dim=-1, keepdim=True).clamp_(min=1e-12)  # a norm takes many times as long
        found = torch.ops.quantized.linear_with_input_q_dq_qweight_dq_output_fp32(
            x / scale, 1 / _LEVELS, _ZERO, self._packed
        )
        return found.mul_(scale) if self._bias is None else torch.addcmul(self._bias, found, scale)


def quantize(model: Seq2Seq) -> Seq2Seq:
    """A copy of a model whose linear maps are quantised; see `with_linear_maps`."""
    return with_linear_maps(model, QuantizedLinear)
