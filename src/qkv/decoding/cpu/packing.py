"""Matrices laid out as decoding on a CPU reads them: the same numbers, in less time.

A step of a search multiplies a few rows by every matrix of the decoder, so it takes as long as the matrices take to be
read. Stored by input channel, they are read in one sweep; for a few rows, oneDNN's blocks are better still.
"""

from collections.abc import Callable
from functools import cache

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.decoding.cpu.linear_maps import MadeLinear, with_linear_maps
from qkv.nn.seq2seq import Seq2Seq

_FEW = range(2, 17)  # rows for which blocks are the faster layout


class PackedLinear(MadeLinear):
    """What `nn.Linear` does, on a CPU in float32. Each layout is made when it is first needed; see `MadeLinear`."""

    def __init__(self, weight: Float[Tensor, "out_features in_features"], bias: Float[Tensor, " out_features"] | None):
        super().__init__(weight, bias)
        self._by_input: Tensor | None = None
        self._blocks: Tensor | None = None

    def forward(self, x: Float[Tensor, "*rows in_features"]) -> Float[Tensor, "*rows out_features"]:
        """The map, from whichever layout suits so many rows."""
        if x.numel() // self.in_features in _FEW and (multiply := _blocked_product()) is not None:
            if self._blocks is None:
                self._blocks = torch.ops.mkldnn._reorder_linear_weight(self._weight.contiguous())
            return multiply(x, self._blocks, self._bias)
        if self._by_input is None:
            self._by_input = self._weight.t().contiguous().t()
        return F.linear(x, self._by_input, self._bias)


class Packing:
    """A model, packed anew whenever its parameters have changed, so that who changes a weight sees what comes of it.

    Args:
        model: any; only one in float32 on a CPU is packed, and none that has forward hooks, which want to be called.
    """

    def __init__(self, model: Seq2Seq):
        self._model = self._packed = model
        self._seen: list[tuple[int, int, int]] | None = None

    def packed(self) -> Seq2Seq:
        """A copy with packed linear maps, which shares all else; the model itself if it is of another kind."""
        found = versions(self._model)
        if found is None:
            return self._model
        if found != self._seen:
            suits = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in self._model.parameters())
            suits = suits and any(type(module) is nn.Linear for module in self._model.modules())  # else quantised
            self._packed = with_linear_maps(self._model, PackedLinear) if suits else self._model
            self._seen = found
        return self._packed


def versions(model: nn.Module) -> list[tuple[int, int, int]] | None:
    """What differs after a weight was changed; None while a part has forward hooks, which want to be called.

    It is asked for at every search, so it does without `modules` and `parameters`, which take five times as long.
    """
    found, waiting = [], [model]
    while waiting:
        module = waiting.pop()
        if module._forward_hooks or module._forward_pre_hooks:
            return None
        for p in module._parameters.values():
            if p is not None:
                found.append((id(p), p.data_ptr(), 0 if p.is_inference() else p._version))
        if module._modules:
            waiting += [child for child in module._modules.values() if child is not None]
    return found


@cache
def _blocked_product() -> Callable[[Tensor, Tensor, Tensor | None], Tensor] | None:
    """oneDNN's product with a matrix in its own layout. It is there for torch's compiler; another torch may lack it."""
    if not torch.backends.mkldnn.is_available():
        return None
    one = torch.eye(2, dtype=torch.float32)
    try:
        multiply = torch.ops.mkldnn._linear_pointwise.default
        found = multiply(one, torch.ops.mkldnn._reorder_linear_weight(one), None, "none", [], "")
    except (AttributeError, NotImplementedError, RuntimeError, TypeError):
        return None
    return (lambda x, blocks, bias: multiply(x, blocks, bias, "none", [], "")) if torch.equal(found, one) else None
