"""A decoder layer's step in one straight line: what a search calls thousands of times has no time for detours.

With one sentence a step's matrix products take a millisecond, and calling some sixty modules takes half as long again.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple, cast

import torch
from jaxtyping import Float
from torch import Tensor, nn

from qkv.decoding.cpu.split_attention import SplitAttention
from qkv.nn.attention import MultiHeadAttention
from qkv.nn.cache import TransformerState
from qkv.nn.layers import DecoderLayer, activate

Map = Callable[[Tensor], Tensor]


class _Parts(NamedTuple):
    """What a step calls, found once."""

    attention: MultiHeadAttention
    attention_output: Map
    attention_norm: Map
    query: Map
    cross_output: Map
    cross_norm: Map
    cross_scale: float | None
    wide: Map
    narrow: Map
    feed_forward_norm: Map


class StraightDecoderLayer(DecoderLayer):
    """A decoder layer for decoding: `step` gives the same as that of the layer it is made from, sooner.

    Hooks on its modules are not called.

    Args:
        layer: in evaluation mode, with `SplitAttention`; all is shared with it.
    """

    def __init__(self, layer: DecoderLayer):
        nn.Module.__init__(self)
        self.__dict__.update(layer.__dict__)
        cross, feed_forward = cast(SplitAttention, layer.cross_attention), layer.feed_forward
        self.pre = layer.attention_residual.norm_position == "pre"
        self.residual = layer.attention_residual.residual
        self.activation = feed_forward.activation
        self._parts = _Parts(
            layer.attention,
            layer.attention.output.forward,
            _norm(layer.attention_residual.norm),
            cross.query.forward,
            cross.output.forward,
            _norm(layer.cross_attention_residual.norm),
            cross.scale,
            feed_forward.wide.forward,
            feed_forward.narrow.forward,
            _norm(layer.feed_forward_residual.norm),
        )

    def step(
        self,
        x: Float[Tensor, "rows new d_model"],
        state: TransformerState,
        index: int,
        record: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, "rows new d_model"]:
        """See `DecoderLayer.step`."""
        if record is not None:
            return super().step(x, state, index, record)
        parts, rows, new = self._parts, x.shape[0], x.shape[1]
        attention = parts.attention

        query, key_value = attention.project_step(self._before(x, parts.attention_norm), state.length - new)
        found = state.attend_to_target(index, query, key_value, scale=attention.scale)
        x = self._after(x, parts.attention_output(found), parts.attention_norm)

        query = parts.query(self._before(x, parts.cross_norm)).view(rows, new, attention.num_heads, -1)
        found = state.attend_to_memory(index, query, scale=parts.cross_scale)
        x = self._after(x, parts.cross_output(found), parts.cross_norm)

        wide = parts.wide(self._before(x, parts.feed_forward_norm))
        return self._after(x, parts.narrow(activate(wide, self.activation)), parts.feed_forward_norm)

    def _before(self, x: Tensor, norm: Map) -> Tensor:
        return norm(x) if self.pre else x

    def _after(self, x: Tensor, change: Tensor, norm: Map) -> Tensor:
        x = x + change if self.residual else change
        return x if self.pre else norm(x)


def _norm(module: nn.Module) -> Map:
    if isinstance(module, nn.LayerNorm):
        weight, bias = module.weight, module.bias
        shape = list(module.normalized_shape)
        return partial(torch.layer_norm, normalized_shape=shape, weight=weight, bias=bias, eps=module.eps)
    return module.forward
