"""The parts of a stack: FeedForward, Residual (Add & Norm), EncoderLayer, DecoderLayer.

Vaswani et al. 2017, sections 3.1 and 3.3.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.nn.attention import MultiHeadAttention
from qkv.nn.cache import LayerCache
from qkv.nn.dropout import Dropout
from qkv.nn.embedding import PositionKind
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
        return self.narrow(self.dropout(self.bend(self.wide(x))))

    def bend(self, x: Float[Tensor, "*rows wide"]) -> Float[Tensor, "*rows d_ff"]:
        """The non-linearity; `swiglu` halves the width, as the first half is the gate."""
        if self.activation == "relu":
            return F.relu(x)
        if self.activation == "gelu":
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


@dataclass(frozen=True, kw_only=True)
class LayerConfig:
    """The shape of a layer. Defaults are the paper's base model (table 3).

    Attributes:
        d_model: width of every token's vector.
        num_heads: attention heads.
        d_ff: width between the two maps of the feed-forward layer.
        dropout: on embeddings and on each sublayer's output.
        attention_dropout: on the attention weights.
        activation_dropout: inside the feed-forward layer.
        activation: relu, gelu or swiglu (gated).
        norm: layer (the paper's), batch or none.
        norm_position: post (the paper's) or pre.
        residual: whether a sublayer's input is added to its output.
        scale_scores: whether scores are divided by the square root of a head's width.
        position: sinusoidal, learned, rotary or none; only rotary acts within a layer.
        bias: whether linear maps and norms have one (the output projection never has).
        causal: whether a target position sees only those before it; without, training peeks at what it is to predict.
    """

    d_model: int = 512
    num_heads: int = 8
    d_ff: int = 2048
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    activation: Activation = "relu"
    norm: NormKind = "layer"
    norm_position: NormPosition = "post"
    residual: bool = True
    scale_scores: bool = True
    position: PositionKind = "sinusoidal"
    bias: bool = True
    causal: bool = True


def _attention(config: LayerConfig, *, rotary: bool) -> MultiHeadAttention:
    return MultiHeadAttention(
        config.d_model,
        config.num_heads,
        dropout=config.attention_dropout,
        scale_scores=config.scale_scores,
        bias=config.bias,
        rotary=rotary,
    )


def _feed_forward(config: LayerConfig) -> FeedForward:
    return FeedForward(
        config.d_model,
        config.d_ff,
        activation=config.activation,
        dropout=config.activation_dropout,
        bias=config.bias,
    )


def _add_and_norm(config: LayerConfig) -> Residual:
    return Residual(
        config.d_model,
        norm=config.norm,
        norm_position=config.norm_position,
        residual=config.residual,
        dropout=config.dropout,
        bias=config.bias,
    )


class EncoderLayer(nn.Module):
    """Self-attention, then feed-forward, each with Add & Norm (figure 1, left)."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.attention = _attention(config, rotary=config.position == "rotary")
        self.attention_residual = _add_and_norm(config)
        self.feed_forward = _feed_forward(config)
        self.feed_forward_residual = _add_and_norm(config)

    def forward(
        self,
        x: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "#batch #source source"] | None = None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "batch source d_model"]:
        """Let every position look at the others (where `mask` is True), then transform each; see `Encoder.forward`."""

        def attend_to_source(x: Tensor) -> Tensor:
            return _recorded(record, *self.attention(x, mask=mask, return_weights=record is not None))

        x = self.attention_residual(x, attend_to_source)
        return self.feed_forward_residual(x, self.feed_forward)


class DecoderLayer(nn.Module):
    """Causal self-attention, attention to the memory, feed-forward, all with Add & Norm (figure 1, right)."""

    def __init__(self, config: LayerConfig):
        super().__init__()
        self.causal = config.causal
        self.attention = _attention(config, rotary=config.position == "rotary")
        self.attention_residual = _add_and_norm(config)
        self.cross_attention = _attention(config, rotary=False)
        self.cross_attention_residual = _add_and_norm(config)
        self.feed_forward = _feed_forward(config)
        self.feed_forward_residual = _add_and_norm(config)

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
        """Let every position look at those before it and at the memory, then transform each.

        Args:
            x: the layer's input.
            memory: the encoder's states.
            memory_mask: True = a source position that may be attended to.
            mask: True = may attend, beside the causal rule; needed only if the target is padded on the left.
            cache: of a search, in which `x` holds new positions alone: it has the memory's keys and values, keeps those
                of `x`, and says what may be seen in place of both masks.
            record: (self-attention, cross-attention) weights are appended to these lists if given.
        """
        own, cross = record if record is not None else (None, None)
        source, source_mask = (memory, memory_mask) if cache is None else (cache.memory, None)

        def attend_to_target(x: Tensor) -> Tensor:
            found = self.attention(x, mask=mask, causal=self.causal, cache=cache, return_weights=own is not None)
            return _recorded(own, *found)

        def attend_to_memory(x: Tensor) -> Tensor:
            found = self.cross_attention(x, source, mask=source_mask, return_weights=cross is not None)
            return _recorded(cross, *found)

        x = self.attention_residual(x, attend_to_target)
        x = self.cross_attention_residual(x, attend_to_memory)
        return self.feed_forward_residual(x, self.feed_forward)


def _recorded(record: list[Tensor] | None, output: Tensor, weights: Tensor | None) -> Tensor:
    if record is not None and weights is not None:
        record.append(weights)
    return output
