"""The parts of a stack: FeedForward, Residual (Add & Norm), EncoderLayer, DecoderLayer.

Vaswani et al. 2017, sections 3.1 and 3.3.
"""

from collections.abc import Callable
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.nn.attention import MultiHeadAttention
from qkv.nn.cache import KeyValue, TransformerState
from qkv.nn.dropout import Dropout
from qkv.nn.norm import NormKind, make_norm

Activation = Literal["relu", "gelu", "swiglu"]
NormPosition = Literal["pre", "post"]


class FeedForward(nn.Module):
    """Two linear maps with a non-linearity between, at every position alike (section 3.3, equation 2).

    `swiglu` gates one half of the wide layer by the other (Shazeer 2020, "GLU Variants Improve Transformer").
    """

    def __init__(
        self,
        d_model: int,
        d_ff: int,
        *,
        activation: Activation = "relu",
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.activation = activation
        self.wide = nn.Linear(d_model, 2 * d_ff if activation == "swiglu" else d_ff, bias=bias)
        self.narrow = nn.Linear(d_ff, d_model, bias=bias)
        self.dropout = Dropout(dropout)
        for linear in (self.wide, self.narrow):
            nn.init.xavier_uniform_(linear.weight)
            if bias:
                nn.init.zeros_(linear.bias)

    def forward(self, x: Float[Tensor, "batch length d_model"]) -> Float[Tensor, "batch length d_model"]:
        """Widen, bend, narrow."""
        return self.narrow(self.dropout(activate(self.wide(x), self.activation)))


def activate(x: Float[Tensor, "*rows wide"], activation: Activation) -> Float[Tensor, "*rows d_ff"]:
    """Bend: `swiglu` halves the width, as the first half is the gate."""
    if activation == "relu":
        return F.relu(x)
    if activation == "gelu":
        return F.gelu(x)
    gate, x = x.chunk(2, dim=-1)
    return F.silu(gate) * x


class Residual(nn.Module):
    """Add & Norm: a sublayer only has to learn what to change, and its input or output is normalised.

    `post` is the paper's LayerNorm(x + Sublayer(x)) (section 3.1); `pre` normalises what the sublayer reads
    and leaves a clean path from input to output, which trains deeper stacks (Xiong et al. 2020). With `residual`
    off nothing is added: each layer has to pass on all that it does not change.
    """

    def __init__(
        self,
        d_model: int,
        *,
        norm: NormKind = "layer",
        norm_position: NormPosition = "post",
        residual: bool = True,
        dropout: float = 0.0,
        bias: bool = True,
    ):
        super().__init__()
        self.norm_position, self.residual = norm_position, residual
        self.norm = make_norm(norm, d_model, bias=bias)
        self.dropout = Dropout(dropout)

    def forward(
        self, x: Float[Tensor, "batch length d_model"], sublayer: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "batch length d_model"]:
        """Add to `x` what the sublayer makes of it."""
        if self.norm_position == "pre":
            return self._add(x, self.dropout(sublayer(self.norm(x))))
        return self.norm(self._add(x, self.dropout(sublayer(x))))

    def _add(self, x: Tensor, change: Tensor) -> Tensor:
        return x + change if self.residual else change


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each with Add & Norm (figure 1, left)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation: Activation = "relu",
        norm: NormKind = "layer",
        norm_position: NormPosition = "post",
        residual: bool = True,
        scale_scores: bool = True,
        rotary: bool = False,
        bias: bool = True,
    ):
        super().__init__()

        def add_and_norm() -> Residual:
            return Residual(
                d_model, norm=norm, norm_position=norm_position, residual=residual, dropout=dropout, bias=bias
            )

        self.attention = MultiHeadAttention(
            d_model, num_heads, dropout=attention_dropout, scale_scores=scale_scores, rotary=rotary, bias=bias
        )
        self.attention_residual = add_and_norm()
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=activation_dropout, bias=bias)
        self.feed_forward_residual = add_and_norm()

    def forward(
        self,
        x: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "#batch #source source"] | None = None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "batch source d_model"]:
        """Let every position look at the others, then transform each.

        Args:
            x: the layer's input.
            mask: True = may attend.
            record: the heads' weights are appended to it if given.
        """

        def attend(x: Tensor) -> Tensor:
            output, weights = self.attention(x, mask=mask, return_weights=record is not None)
            return _recorded(output, weights, record)

        x = self.attention_residual(x, attend)
        return self.feed_forward_residual(x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the memory, feed-forward, all with Add & Norm (figure 1, right)."""

    def __init__(
        self,
        d_model: int,
        num_heads: int,
        d_ff: int,
        *,
        dropout: float = 0.0,
        attention_dropout: float = 0.0,
        activation_dropout: float = 0.0,
        activation: Activation = "relu",
        norm: NormKind = "layer",
        norm_position: NormPosition = "post",
        residual: bool = True,
        scale_scores: bool = True,
        rotary: bool = False,
        bias: bool = True,
        causal: bool = True,
    ):
        super().__init__()
        self.causal = causal

        def add_and_norm() -> Residual:
            return Residual(
                d_model, norm=norm, norm_position=norm_position, residual=residual, dropout=dropout, bias=bias
            )

        self.attention = MultiHeadAttention(
            d_model, num_heads, dropout=attention_dropout, scale_scores=scale_scores, rotary=rotary, bias=bias
        )
        self.attention_residual = add_and_norm()
        self.cross_attention = MultiHeadAttention(
            d_model, num_heads, dropout=attention_dropout, scale_scores=scale_scores, bias=bias
        )
        self.cross_attention_residual = add_and_norm()
        self.feed_forward = FeedForward(d_model, d_ff, activation=activation, dropout=activation_dropout, bias=bias)
        self.feed_forward_residual = add_and_norm()

    def forward(
        self,
        x: Float[Tensor, "rows target d_model"],
        memory: Float[Tensor, "batch source d_model"] | KeyValue,
        memory_mask: Bool[Tensor, "#batch #target source"] | None = None,
        *,
        mask: Bool[Tensor, "#rows #target key"] | None = None,
        record: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """Let every position look at those before it and at the memory, then transform each.

        Args:
            x: the layer's input; its rows are the memory's, or several adjacent ones (beams) for each.
            memory: the encoder's states, or their keys and values if `cross_attention.project_key_value` was
                called before.
            memory_mask: True = a source position that may be attended to.
            mask: True = may attend, beside the causal rule; needed only if the target is padded on the left.
            record: (self-attention, cross-attention) weights are appended to these lists if given.
        """
        own_record, cross_record = record if record is not None else (None, None)

        def attend_to_target(x: Tensor) -> Tensor:
            output, weights = self.attention(x, mask=mask, causal=self.causal, return_weights=own_record is not None)
            return _recorded(output, weights, own_record)

        def attend_to_memory(x: Tensor) -> Tensor:
            key, value = self.cross_attention.project_key_value(memory) if isinstance(memory, Tensor) else memory
            # A sentence's beams become more queries to the same memory, which is not copied.
            queries = x.reshape(key.shape[0], -1, x.shape[-1])
            output, weights = self.cross_attention.attend(
                self.cross_attention.project_query(queries),
                key,
                value,
                mask=memory_mask,
                return_weights=cross_record is not None,
            )
            if weights is not None:
                weights = weights.unflatten(2, (-1, x.shape[1])).transpose(1, 2).flatten(0, 1)
            return _recorded(output.reshape(x.shape), weights, cross_record)

        x = self.attention_residual(x, attend_to_target)
        x = self.cross_attention_residual(x, attend_to_memory)
        return self.feed_forward_residual(x, self.feed_forward)

    def step(
        self,
        x: Float[Tensor, "rows new d_model"],
        state: TransformerState,
        index: int,
        record: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, "rows new d_model"]:
        """The same for new positions alone: earlier ones and the memory have left keys and values in the state.

        Args:
            x: the layer's input; its rows are the state's sentences, or several adjacent ones (beams) for each.
            state: has been told of the step by `TransformerState.extend`.
            index: which layer this is.
            record: see `forward`.
        """
        own_record, cross_record = record if record is not None else (None, None)

        def attend_to_target(x: Tensor) -> Tensor:
            query, key_value = self.attention.project_step(x, offset=state.length - x.shape[1])
            found = state.attend_to_target(index, query, key_value, scale=self.attention.scale, record=own_record)
            return self.attention.output(found)

        def attend_to_memory(x: Tensor) -> Tensor:
            query = self.cross_attention.project_query(x).transpose(1, 2)
            found = state.attend_to_memory(index, query, scale=self.cross_attention.scale, record=cross_record)
            return self.cross_attention.output(found)

        x = self.attention_residual(x, attend_to_target)
        x = self.cross_attention_residual(x, attend_to_memory)
        return self.feed_forward_residual(x, self.feed_forward)


def _recorded(output: Tensor, weights: Tensor | None, record: list[Tensor] | None) -> Tensor:
    if record is not None and weights is not None:
        record.append(weights)
    return output
