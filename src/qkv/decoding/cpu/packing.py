"""Matrices laid out as decoding on a CPU reads them: the same numbers, in less time.

A step of a search multiplies a few rows by every matrix of the decoder, so it takes as long as the matrices take to be
read. Stored by input channel, they are read in one sweep; for a few rows, oneDNN's blocks are better still.
"""

from collections.abc import Callable
from functools import cache
from itertools import chain
from typing import Any

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
        self._watch = Watch(model)
        self._seen: tuple[list[int], ...] | None = None

    def packed(self) -> Seq2Seq:
        """A copy with packed linear maps, which shares all else; the model itself if it is of another kind."""
        found = self._watch.seen()
        if found is None:
            return self._model
        if found != self._seen:
            suits = all(p.dtype == torch.float32 and p.device.type == "cpu" for p in self._model.parameters())
            suits = suits and any(type(module) is nn.Linear for module in self._model.modules())  # else quantised
            self._packed = with_linear_maps(self._model, PackedLinear) if suits else self._model
            self._seen = found
        return self._packed


class Watch:
    """Notices whether a model has been changed: its parts, its parameters, or what they hold.

    It is asked at every search, so what can be is done without a loop in Python.
    """

    def __init__(self, model: nn.Module):
        self._model = model
        self._walk()

    def seen(self) -> tuple[list[int], ...] | None:
        """What differs after a change; None while a part has forward hooks, which want to be called."""
        if self._identities() != self._known:
            self._walk()
        if any(self._hooks):
            return None
        return self._known, [p._version for p in self._counted], list(map(Tensor.data_ptr, self._parameters))

    def _walk(self) -> None:
        self._parts = list(self._model.modules())  # kept alive, or another could have the same identity
        self._hooks = [hooks for part in self._parts for hooks in (part._forward_hooks, part._forward_pre_hooks)]
        self._within: list[dict[str, Any]] = [
            within for part in self._parts for within in (part._modules, part._parameters)
        ]
        self._parameters = list(self._model.parameters())
        self._counted = [p for p in self._parameters if not p.is_inference()]
        self._known = self._identities()

    def _identities(self) -> list[int]:
        return list(map(id, chain.from_iterable(map(dict.values, self._within))))


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
