"""Attention: a query is scored against keys, and the weights rank the values.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2.
"""

import math
from typing import Literal, overload

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
        causal: a query sees no later key; with more keys than queries, the queries are the last positions.
        dropout: probability of dropping an attention weight (pass 0 when not training).
        scale: factor on the scores; 1/√d_head by default.
        return_weights: also return the weights (before dropout); without them a fused kernel is used.

    Returns:
        The retrieved values, or (values, weights): a row of weights sums to one, or to zero if fully masked.
    """
    query_length, key_length = query.shape[-2], key.shape[-2]
    if causal and (mask is not None or query_length != key_length or return_weights):
        # One query at the end sees every key: decoding step by step needs no mask.
        if query_length > 1:
            mask = combine_masks(mask, causal_mask(query_length, key_length, device=query.device))
        causal = False

    has_fused_kernel = dropout == 0.0 or query.device.type != "cpu"
    if has_fused_kernel and not return_weights:
        return _fused_attention(query, key, value, mask, causal, dropout, scale)
    if causal and query_length > 1:
        mask = causal_mask(query_length, device=query.device)
    retrieved, weights = _explicit_attention(query, key, value, mask, dropout, scale)
    return (retrieved, weights) if return_weights else retrieved


def _fused_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    scale: float | None,
) -> Tensor:
    if mask is None:
        return F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, is_causal=causal, scale=scale)
    # Kernels disagree about rows that may attend to nothing (NaN, mean, zero): we open and zero such rows.
    sees_something = mask.any(dim=-1, keepdim=True)
    opened = torch.atleast_2d(mask | ~sees_something)
    retrieved = F.scaled_dot_product_attention(query, key, value, attn_mask=opened, dropout_p=dropout, scale=scale)
    return retrieved * sees_something.to(retrieved.dtype)


def _explicit_attention(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scale: float | None
) -> tuple[Tensor, Tensor]:
    """Equation 1 as it is written, for whoever wants to see the weights."""
    scale = 1.0 / math.sqrt(query.shape[-1]) if scale is None else scale
    weights = attention_weights((query * scale) @ key.transpose(-2, -1), mask)
    return apply_dropout(weights, dropout) @ value, weights


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
        # Query, key and value stacked, so that self-attention projects all three in one matrix product.
        self.projection = nn.Linear(d_model, 3 * d_model, bias=bias)
        self.output = nn.Linear(d_model, d_model, bias=bias)
        self.rotary = RotaryPosition(d_model // num_heads) if rotary else None
        nn.init.xavier_uniform_(self.projection.weight)
        nn.init.xavier_uniform_(self.output.weight)
        if bias:
            nn.init.zeros_(self.projection.bias)
            nn.init.zeros_(self.output.bias)

    def forward(
        self,
        query: Float[Tensor, "batch query d_model"],
        key: Float[Tensor, "batch key d_model"] | None = None,
        value: Float[Tensor, "batch key d_model"] | None = None,
        mask: Bool[Tensor, "#batch #query key"] | None = None,
        *,
        causal: bool = False,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch query d_model"], Float[Tensor, "batch head query key"] | None]:
        """Attend from each query to the keys and gather their values.

        Args:
            query: looks.
            key: is looked at; the query itself by default (self-attention).
            value: is gathered; the key itself by default.
            mask: True = may attend, shared by all heads.
            causal: see `attention`.
            return_weights: whether to return each head's weights.

        Returns:
            (output, weights of every head, or None when they were not asked for).

        Raises:
            ValueError: if a key or value is given to an attention with rotary positions.
        """
        if key is None and value is None:
            heads = self.project_all(query)
        elif self.rotary is not None:
            raise ValueError("rotary positions are for self-attention: pass the query alone")
        else:
            key = query if key is None else key
            heads = (self.project_query(query), *self.project_key_value(key, value))
        return self.attend(*heads, mask=mask, causal=causal, return_weights=return_weights)

    def project_all(
        self, x: Float[Tensor, "batch query d_model"], offset: int = 0
    ) -> tuple[
        Float[Tensor, "batch head query d_head"],
        Float[Tensor, "batch head query d_head"],
        Float[Tensor, "batch head query d_head"],
    ]:
        """Query, key and value of the same sequence, whose first position is `offset`."""
        if self.rotary is None:
            query, key, value = (self._split(part) for part in self.projection(x).chunk(3, dim=-1))
            return query, key, value
        query_and_key, value = self.projection(x).split((2 * self.d_model, self.d_model), dim=-1)
        # Rotated together, as if they were one query with twice the heads.
        query_and_key = query_and_key.unflatten(-1, (2 * self.num_heads, -1)).transpose(1, 2)
        query, key = self.rotary(query_and_key, offset).chunk(2, dim=1)
        return query, key, self._split(value)

    def project_step(
        self, x: Float[Tensor, "rows new d_model"], offset: int
    ) -> tuple[Float[Tensor, "rows new head d_head"], Float[Tensor, "rows new 2 head d_head"]]:
        """`project_all` for tokens that are to be kept: keys and values in one piece, each token's heads together."""
        if self.rotary is None:
            heads = self.projection(x).view(*x.shape[:2], 3, self.num_heads, -1)
            return heads.select(2, 0), heads.narrow(2, 1, 2)
        query, key, value = (part.transpose(1, 2) for part in self.project_all(x, offset))
        return query, torch.stack((key, value), dim=2)

    def project_query(self, query: Float[Tensor, "batch query d_model"]) -> Float[Tensor, "batch head query d_head"]:
        """Queries alone, for keys and values that come from elsewhere."""
        return self._split(self._project(query, 0, 1))

    def project_key_value(
        self, key: Float[Tensor, "batch key d_model"], value: Float[Tensor, "batch key d_model"] | None = None
    ) -> tuple[Float[Tensor, "batch head key d_head"], Float[Tensor, "batch head key d_head"]]:
        """Keys and values of a memory: computed once, however often it is attended to."""
        if value is None or value is key:
            keys, values = self._project(key, 1, 3).chunk(2, dim=-1)
        else:
            keys, values = self._project(key, 1, 2), self._project(value, 2, 3)
        return self._split(keys), self._split(values)

    def attend(
        self,
        query: Float[Tensor, "batch head query d_head"],
        key: Float[Tensor, "batch head key d_head"],
        value: Float[Tensor, "batch head key d_head"],
        *,
        mask: Bool[Tensor, "#batch #query key"] | None = None,
        causal: bool = False,
        return_weights: bool = False,
    ) -> tuple[Float[Tensor, "batch query d_model"], Float[Tensor, "batch head query key"] | None]:
        """Attend with heads that are projected already, join them and project the result."""
        mask = None if mask is None else mask.unsqueeze(1)
        dropout = self.dropout if self.training else 0.0
        weights = None
        if return_weights:
            heads, weights = attention(
                query, key, value, mask, causal=causal, dropout=dropout, scale=self.scale, return_weights=True
            )
        else:
            heads = attention(query, key, value, mask, causal=causal, dropout=dropout, scale=self.scale)
        return self.output(heads.transpose(1, 2).flatten(start_dim=2)), weights

    def _project(self, x: Tensor, first: int, last: int) -> Tensor:
        """Project by the rows [first, last) of the stacked query, key and value matrices."""
        rows = slice(first * self.d_model, last * self.d_model)
        return F.linear(x, self.projection.weight[rows], self.projection.bias[rows] if self.bias else None)

    def _split(self, x: Tensor) -> Tensor:
        """(batch, length, d_model) → (batch, head, length, d_head)"""
        return x.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
