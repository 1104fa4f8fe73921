"""Attention: a query is scored against keys, and the weights rank the values.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
"""

import math
from typing import Literal, NamedTuple, Protocol, overload, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.nn.dropout import dropout as apply_dropout
from qkv.nn.embedding import RotaryPosition
from qkv.nn.masks import causal_mask, combine_masks


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    return_weights: Literal[False] = False,
) -> Tensor: ...


@overload
def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None = None,
    *,
    bias: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    return_weights: Literal[True],
) -> tuple[Tensor, Tensor]: ...


def attention(
    query: Float[Tensor, "*batch query d_head"],
    key: Float[Tensor, "*batch key d_head"],
    value: Float[Tensor, "*batch key d_value"],
    mask: Bool[Tensor, "..."] | None = None,
    *,
    bias: Float[Tensor, "..."] | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    scale: float | None = None,
    return_weights: bool = False,
) -> (
    Float[Tensor, "*batch query d_value"]
    | tuple[Float[Tensor, "*batch query d_value"], Float[Tensor, "*batch query key"]]
):
    """Scaled dot-product attention: softmax(query · keyᵀ / √d_head) · value (equation 1).

    Args:
        query: what is looked for.
        key: what each value is known by.
        value: what is retrieved.
        mask: boolean, True = may attend, broadcastable to (*batch, query, key). A query that may attend to
            nothing retrieves zeros.
        bias: what is added to the scores in place of a mask, -inf to hide a key: made once, for many attentions.
        causal: a query sees no later key; with more keys than queries, the queries are the last positions.
        dropout: probability of dropping an attention weight (pass 0 when not training).
        scale: factor on the scores; 1/√d_head by default.
        return_weights: also return the weights (before dropout); without them a fused kernel is used.

    Returns:
        The retrieved values, or (values, weights): a row of weights sums to one, or to zero if fully masked.
    """
    found, weights = _attend(query, key, value, mask, bias, causal, dropout, scale, return_weights)
    return found if weights is None else (found, weights)


def _attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    bias: Tensor | None,
    causal: bool,
    dropout: float,
    scale: float | None,
    return_weights: bool,
) -> tuple[Tensor, Tensor | None]:
    """`attention`, whose second result is None if the weights were not asked for."""
    query_length, key_length = query.shape[-2], key.shape[-2]
    if causal and (mask is not None or query_length != key_length or return_weights):
        # One query at the end sees every key: decoding step by step needs no mask.
        if query_length > 1:
            mask = combine_masks(mask, causal_mask(query_length, key_length, device=query.device))
        causal = False
    if not return_weights and (dropout == 0.0 or query.is_cuda):  # torch's fused kernels drop weights on CUDA alone
        if mask is None:
            return F.scaled_dot_product_attention(query, key, value, bias, dropout, is_causal=causal, scale=scale), None
        # Kernels disagree about rows that may attend to nothing (NaN, mean, zero): we open and zero such rows.
        sees_something = mask.any(dim=-1, keepdim=True)
        opened = torch.atleast_2d(mask | ~sees_something)
        seen = opened if bias is None else torch.where(opened, bias, -torch.inf)
        found = F.scaled_dot_product_attention(query, key, value, seen, dropout, scale=scale)
        return found * sees_something.to(found.dtype), None
    if causal and query_length > 1:
        mask = causal_mask(query_length, device=query.device)
    # Equation 1 as it is written.
    scores = (query * (1.0 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ key.transpose(-2, -1)
    weights = attention_weights(scores if bias is None else scores + bias, mask)
    return apply_dropout(weights, dropout) @ value, weights if return_weights else None


def attention_weights(
    scores: Float[Tensor, "*batch query key"], mask: Bool[Tensor, "..."] | None = None
) -> Float[Tensor, "*batch query key"]:
    """Softmax over the keys that may be attended to; a query that may attend to none has weights of zero."""
    if mask is not None:
        scores = scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
    weights = scores.softmax(dim=-1, dtype=torch.promote_types(scores.dtype, torch.float32)).to(scores.dtype)
    if mask is not None:
        weights = weights * mask.any(dim=-1, keepdim=True).to(weights.dtype)
    return weights


class KeyValue(NamedTuple):
    """Keys and values of all heads, ready to be attended to.

    Attributes:
        key: what each value is known by.
        value: what is retrieved.
        bias: what is added to the scores of whoever looks; None if all may be seen.
    """

    key: Float[Tensor, "batch head key d_head"]
    value: Float[Tensor, "batch head key d_head"]
    bias: Float[Tensor, "..."] | None = None


@runtime_checkable
class KeyValueCache(Protocol):
    """Where an attention leaves its keys and values in a search that goes on step by step; see `qkv.nn.cache`."""

    @property
    def positions(self) -> tuple[int, int]:
        """Of the step's tokens in their sequence: the first, and one beyond the last."""

    def extend(self, new: KeyValue) -> KeyValue:
        """Keep the step's own, and answer with all that the step may look at."""


class StackedLinear(nn.Linear):
    """Several linear maps of equal width, stacked, so that one matrix product gives them all."""

    def forward(self, x: Float[Tensor, "*rows width"], first: int = 0, last: int = 3) -> Float[Tensor, "*rows out"]:
        """The maps from `first` to `last` (excluded), side by side."""
        width = self.in_features
        if (last - first) * width == self.out_features:
            return super().forward(x)
        rows = slice(first * width, last * width)
        return F.linear(x, self.weight[rows], None if self.bias is None else self.bias[rows])


class MultiHeadAttention(nn.Module):
    """Several attentions side by side, each in its own subspace of `d_model` (section 3.2.2).

    Args:
        d_model: width of queries, keys, values and output.
        num_heads: number of heads; each is d_model / num_heads wide.
        dropout: on the attention weights, while training.
        scale_scores: whether scores are divided by √d_head; without, softmax is the sharper the wider the heads.
        bias: whether the projections have one.
        rotary: rotate queries and keys by their positions (Su et al. 2021); for self-attention only.

    Raises:
        ValueError: if d_model is not a multiple of num_heads.
    """

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        *,
        dropout: float = 0.0,
        scale_scores: bool = True,
        bias: bool = True,
        rotary: bool = False,
    ):
        super().__init__()
        if d_model % num_heads != 0:
            raise ValueError(f"d_model ({d_model}) must be a multiple of num_heads ({num_heads})")
        self.d_model, self.num_heads, self.dropout, self.bias = d_model, num_heads, dropout, bias
        self.scale = None if scale_scores else 1.0
        self.projection = StackedLinear(d_model, 3 * d_model, bias=bias)  # to queries, keys and values
        self.output = nn.Linear(d_model, d_model, bias=bias)
        self.rotary = RotaryPosition(d_model // num_heads) if rotary else None
        for linear in (self.projection, self.output):
            nn.init.xavier_uniform_(linear.weight)
            if bias:
                nn.init.zeros_(linear.bias)

    def forward(
        self,
        query: Float[Tensor, "batch query d_model"],
        key: Float[Tensor, "batch key d_model"] | KeyValue | None = None,
        value: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "#batch #query key"] | None = None,
        *,
        causal: bool = False,
        cache: KeyValueCache | None = None,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch query d_model"], Float[Tensor, "batch head query key"] | None]:
        """Attend from each query to the keys and gather their values.

        Args:
            query: looks.
            key: is looked at; the query itself by default (self-attention); or what `project_key_value` made of it.
            value: is gathered; the key itself by default.
            mask: True = may attend, shared by all heads.
            causal: see `attention`.
            cache: of self-attention in a search; it says what may be seen, in place of `mask` and `causal`.
            return_weights: whether to return each head's weights.

        Returns:
            (output, weights of every head, or None when they were not asked for).

        Raises:
            ValueError: if a key or value is given to an attention with rotary positions.
        """
        if key is None and value is None:
            queries, keys_values = self.project_all(query, cache)
        elif self.rotary is not None:
            raise ValueError("rotary positions are for self-attention: pass the query alone")
        else:
            (queries,) = self._split(self.projection(query, 0, 1))
            key = query if key is None else key
            keys_values = key if isinstance(key, KeyValue) else self.project_key_value(key, value)
        return self.attend(queries, keys_values, mask, causal=causal and cache is None, return_weights=return_weights)

    def project_all(
        self, x: Float[Tensor, "batch length d_model"], cache: KeyValueCache | None = None
    ) -> tuple[Float[Tensor, "batch head length d_head"], KeyValue]:
        """Queries, and keys with values, of one sequence; with a cache also those of its beginning."""
        query, key, value = self._split(self.projection(x))
        if self.rotary is not None:
            positions = (0, x.shape[1]) if cache is None else cache.positions
            query, key = self.rotary(query, *positions), self.rotary(key, *positions)
        return query, KeyValue(key, value) if cache is None else cache.extend(KeyValue(key, value))

    def project_key_value(
        self, key: Float[Tensor, "batch key d_model"], value: Float[Tensor, "batch key d_model"] | None = None
    ) -> KeyValue:
        """Of a memory, whose values are the keys unless said otherwise: once, however often it is attended to."""
        if value is None or value is key:
            return KeyValue(*self._split(self.projection(key, 1, 3)))
        return KeyValue(*self._split(self.projection(key, 1, 2)), *self._split(self.projection(value, 2, 3)))

    def attend(
        self,
        query: Float[Tensor, "batch head query d_head"],
        seen: KeyValue,
        mask: Bool[Tensor, "#batch #query key"] | None = None,
        *,
        causal: bool = False,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch query d_model"], Float[Tensor, "batch head query key"] | None]:
        """Attend with heads that are projected already, join them and project the result; see `forward`."""
        heads, weights = _attend(
            query,
            seen.key,
            seen.value,
            None if mask is None else mask.unsqueeze(1),
            seen.bias,
            causal=causal,
            dropout=self.dropout if self.training else 0.0,
            scale=self.scale,
            return_weights=return_weights,
        )
        return self.output(heads.transpose(1, 2).flatten(start_dim=2)), weights

    def _split(self, x: Float[Tensor, "batch length stacked"]) -> tuple[Float[Tensor, "batch head length d_head"], ...]:
        """(batch, length, n · d_model) → n × (batch, head, length, d_head)"""
        return tuple(part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in x.split(self.d_model, dim=-1))
