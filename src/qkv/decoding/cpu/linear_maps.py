"""A model with other linear maps in place of its own: the same results, or nearly, from matrices made for decoding."""

import copy
from collections.abc import Callable
from typing import cast

from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.decoding.cpu.straight import StraightDecoderLayer
from qkv.nn.attention import StackedLinear
from qkv.nn.layers import DecoderLayer
from qkv.nn.seq2seq import Seq2Seq

MakeLinear = Callable[[Tensor, Tensor | None], nn.Module]  # from a weight (out_features, in_features) and a bias


def with_linear_maps(model: Seq2Seq, make: MakeLinear) -> Seq2Seq:
    """A copy of a model in which `make` has made every linear map, from its weight and bias.

    All else is shared with the model, which stays as it is. The copy is for evaluation.
    """
    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    changed = copy.deepcopy(model, shared)
    for module in list(changed.modules()):
        for name, child in module.named_children():
            if type(child) is StackedLinear:
                setattr(module, name, Stack(child, make))
            elif type(child) is nn.Linear:
                setattr(module, name, make(child.weight, child.bias))
    for module in list(changed.modules()):
        for name, child in module.named_children():
            if type(child) is DecoderLayer:
                setattr(module, name, StraightDecoderLayer(child))
    return changed.eval()


class MadeLinear(nn.Module):
    """A linear map for evaluation, made from the weight and bias of another, with which it shares them."""

    def __init__(self, weight: Float[Tensor, "out_features in_features"], bias: Float[Tensor, " out_features"] | None):
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self._weight, self._bias = weight.detach(), None if bias is None else bias.detach()

    def forward(self, x: Float[Tensor, "*rows in_features"]) -> Float[Tensor, "*rows out_features"]:
        """What `nn.Linear` gives, or nearly."""
        return F.linear(x, self._weight, self._bias)

    def rows(self, wanted: Int[Tensor, " wanted"]) -> "MadeLinear":
        """The part of the map that leads to some of its outputs."""
        return type(self)(self._weight[wanted], None if self._bias is None else self._bias[wanted])


class Stack(nn.Module):
    """What a `StackedLinear` does, with a map made for each part that is asked for: not all can be cut into rows."""

    def __init__(self, linear: StackedLinear, make: MakeLinear):
        super().__init__()
        self._weight, self._bias, self._make = linear.weight.detach(), linear.bias, make
        self._maps: dict[tuple[int, int], nn.Module] = {}

    def forward(self, x: Float[Tensor, "*rows width"], first: int = 0, last: int = 3) -> Float[Tensor, "*rows out"]:
        """See `StackedLinear.forward`."""
        made = self._maps.get((first, last))
        if made is None:
            rows = slice(first * x.shape[-1], last * x.shape[-1])
            made = self._make(self._weight[rows], None if self._bias is None else self._bias.detach()[rows])
            self._maps[first, last] = made
        return cast(Tensor, made.forward(x))
