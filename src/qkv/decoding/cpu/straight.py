"""A decoder layer's step in one straight line: what a search calls thousands of times has no time for detours.

With one sentence a step's matrix products take a millisecond, and calling some sixty modules takes a third as long.
"""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.nn.attention import KeyValue
from qkv.nn.cache import LayerCache
from qkv.nn.layers import DecoderLayer, Residual

Map = Callable[..., Tensor]


class StraightDecoderLayer(nn.Module):
    """Gives what a decoder layer gives, for evaluation; a step with a cache sooner, and calls no hooks of its modules.

    Args:
        layer: with linear maps that are there to stay; all is shared with it.
    """

    def __init__(self, layer: DecoderLayer):
        super().__init__()
        self.layer, self.attention, self.cross_attention = layer, layer.attention, layer.cross_attention
        self.causal, feed_forward = layer.causal, layer.feed_forward
        rotary = layer.attention.rotary
        self._heads, self._scale = layer.attention.num_heads, layer.attention.scale
        self._turn: Map | None = None if rotary is None else rotary.forward
        # Looked up once: a module's attributes that are modules take ten times as long as others.
        self._project, self._output = layer.attention.projection.forward, layer.attention.output.forward
        self._query, self._found = layer.cross_attention.projection.forward, layer.cross_attention.output.forward
        self._sublayers = [
            (self._attend, _before(layer.attention_residual), _after(layer.attention_residual)),
            (self._cross_attend, _before(layer.cross_attention_residual), _after(layer.cross_attention_residual)),
            (self._feed_forward, _before(layer.feed_forward_residual), _after(layer.feed_forward_residual)),
        ]
        self._wide, self._bend, self._narrow = feed_forward.wide.forward, feed_forward.bend, feed_forward.narrow.forward

    def forward(
        self,
        x: Float[Tensor, "batch target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        memory_mask: Bool[Tensor, "#batch #target source"] | None = None,
        *,
        mask: Bool[Tensor, "#batch #target key"] | None = None,
        cache: LayerCache | None = None,
        record: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, "batch target d_model"]:
        """See `DecoderLayer.forward`."""
        if cache is None or record is not None:
            return self.layer(x, memory, memory_mask, mask=mask, cache=cache, record=record)
        for sublayer, before, after in self._sublayers:
            x = after(x, sublayer(before(x), cache))
        return x

    def _attend(self, x: Tensor, cache: LayerCache) -> Tensor:
        query, key, value = self._project(x).view(*x.shape[:2], 3, self._heads, -1).transpose(1, 3).unbind(2)
        if self._turn is not None:
            query, key = (self._turn(heads, *cache.positions) for heads in (query, key))
        return self._output(self._look(query, cache.extend(KeyValue(key, value))))

    def _cross_attend(self, x: Tensor, cache: LayerCache) -> Tensor:
        query = self._query(x, 0, 1).view(*x.shape[:2], self._heads, -1).transpose(1, 2)
        return self._found(self._look(query, cache.memory))

    def _look(self, query: Tensor, seen: KeyValue) -> Tensor:
        found = F.scaled_dot_product_attention(query, seen.key, seen.value, seen.bias, scale=self._scale)
        return found.transpose(1, 2).flatten(2)

    def _feed_forward(self, x: Tensor, cache: LayerCache) -> Tensor:
        return self._narrow(self._bend(self._wide(x)))


def _before(residual: Residual) -> Map:
    return _norm(residual.norm) if residual.norm_position == "pre" else _same


def _after(residual: Residual) -> Callable[[Tensor, Tensor], Tensor]:
    add = torch.add if residual.residual else _second
    if residual.norm_position == "pre":
        return add
    norm = _norm(residual.norm)
    return lambda x, change: norm(add(x, change))


def _norm(module: nn.Module) -> Map:
    if isinstance(module, nn.LayerNorm):
        weight, bias, shape = module.weight, module.bias, list(module.normalized_shape)
        return partial(torch.layer_norm, normalized_shape=shape, weight=weight, bias=bias, eps=module.eps)
    return module.forward


def _same(x: Tensor) -> Tensor:
    return x


def _second(x: Tensor, change: Tensor) -> Tensor:
    return change
