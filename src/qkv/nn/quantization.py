"""Matrices of 8-bit integers: for decoding on a CPU, where they take a quarter of the memory and less time.

Every output channel's weights have a scale of their own, and so has every matrix of inputs, which is found as it comes
along (Bhandare et al. 2019, "Efficient 8-bit quantization of Transformer neural machine language translation model").
Sums are 32-bit integers; all between matrix products stays float32.
"""

import copy
import warnings
from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from qkv.nn.attention import MultiHeadAttention
from qkv.nn.seq2seq import Seq2Seq


class QuantizedLinear(nn.Module):
    """What `nn.Linear` does, in 8 bits; on a CPU alone, and not to be trained.

    Inputs take 7 bits, as AVX2's instruction adds two products in 16. They share one scale, so a row's result depends
    a little on the rows beside it.

    Args:
        weight: of the linear map.
        bias: is added in float32.
    """

    def __init__(self, weight: Float[Tensor, "out_features in_features"], bias: Float[Tensor, " out_features"] | None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._exact = (weight.detach(), None if bias is None else bias.detach())
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
            self._packed = torch.ops.quantized.linear_prepack(
                quantized, None if bias is None else bias.detach().float()
            )
        finally:
            torch.backends.quantized.engine = engine

    def forward(self, x: Float[Tensor, "*rows in_features"]) -> Float[Tensor, "*rows out_features"]:
        """The map's approximation, in float32."""
        return cast(Tensor, torch.ops.quantized.linear_dynamic(x, self._packed, reduce_range=True))

    def rows(self, wanted: Int[Tensor, " wanted"]) -> "QuantizedLinear":
        """The part of the map that leads to some of its outputs."""
        weight, bias = self._exact
        return QuantizedLinear(weight[wanted], None if bias is None else bias[wanted])


class QuantizedAttention(MultiHeadAttention):
    """Attention whose projections are quantised: all three together, the queries, and keys with values.

    Args:
        attention: what it is made from; stays as it is.
    """

    def __init__(self, attention: MultiHeadAttention):
        nn.Module.__init__(self)
        self.__dict__.update({name: value for name, value in vars(attention).items() if not name.startswith("_")})
        self.rotary = attention.rotary
        weight, bias, width = attention.projection.weight, attention.projection.bias, attention.d_model
        self.projection = QuantizedLinear(weight, bias)  # type: ignore[assignment]
        self.query = QuantizedLinear(weight[:width], None if bias is None else bias[:width])
        self.key_value = QuantizedLinear(weight[width:], None if bias is None else bias[width:])
        self.output = QuantizedLinear(attention.output.weight, attention.output.bias)  # type: ignore[assignment]

    def project_query(self, query: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch head query d_head"]:
        """See `MultiHeadAttention.project_query`."""
        return self._split(self.query(query))

    def project_key_value(
        self, key: Float[Tensor, "batch key d_model"], value: Float[Tensor, "batch key d_model"] | None = None
    ) -> tuple[Float[Tensor, "batch head key d_head"], Float[Tensor, "batch head key d_head"]]:
        """See `MultiHeadAttention.project_key_value`; the values are those of the keys."""
        if value is not None and value is not key:
            raise ValueError("quantised attention gathers the values that it has keys for")
        keys, values = self.key_value(key).chunk(2, dim=-1)
        return self._split(keys), self._split(values)


def quantize(model: Seq2Seq) -> Seq2Seq:
    """A copy of a model whose linear maps are quantised; all else is shared with the model, which stays as it is."""
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    quantized = copy.deepcopy(model, shared)
    _replace(quantized)
    return quantized.requires_grad_(False).eval()


def _replace(module: nn.Module) -> None:
    for name, child in module.named_children():
        if isinstance(child, MultiHeadAttention):
            setattr(module, name, QuantizedAttention(child))
        elif type(child) is nn.Linear:
            setattr(module, name, QuantizedLinear(child.weight, child.bias))
        else:
            _replace(child)
