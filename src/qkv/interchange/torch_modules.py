"""Weights to and from torch.nn's own attention and Transformer modules.

| qkv.nn               | torch.nn                  |
|----------------------|---------------------------|
| `MultiHeadAttention` | `MultiheadAttention`      |
| `EncoderLayer`       | `TransformerEncoderLayer` |
| `DecoderLayer`       | `TransformerDecoderLayer` |
| `Encoder`            | `TransformerEncoder`      |
| `Decoder`            | `TransformerDecoder`      |
| `(Encoder, Decoder)` | `Transformer`             |

Two differences remain where the modules are called. torch's boolean masks say True = may *not* attend, ours
say True = may attend. torch's decoder looks ahead unless it is given a causal mask, ours never does.
"""

from collections.abc import Iterable
from copy import deepcopy
from functools import singledispatch
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from qkv.nn.attention import MultiHeadAttention
from qkv.nn.layers import Activation, DecoderLayer, EncoderLayer, FeedForward, LayerConfig, Residual
from qkv.nn.transformer import Decoder, Encoder, Transformer, TransformerConfig

# Beginnings of parameter names, ours → torch's.
_ATTENTION = {"projection.": "in_proj_", "output.": "out_proj."}
_ENCODER_LAYER = {
    "attention.projection.": "self_attn.in_proj_",
    "attention.output.": "self_attn.out_proj.",
    "attention_residual.norm.": "norm1.",
    "feed_forward.wide.": "linear1.",
    "feed_forward.narrow.": "linear2.",
    "feed_forward_residual.norm.": "norm2.",
}
_DECODER_LAYER = _ENCODER_LAYER | {
    "cross_attention.projection.": "multihead_attn.in_proj_",
    "cross_attention.output.": "multihead_attn.out_proj.",
    "cross_attention_residual.norm.": "norm2.",
    "feed_forward_residual.norm.": "norm3.",
}

_NORM_EPS = nn.LayerNorm(1).eps  # torch's default, which ours always have


@singledispatch
def to_torch(module: Any) -> Any:
    """The torch.nn module (batch first) that computes what `module` computes, with copies of its weights.

    Args:
        module: one of the left column above, or a `Transformer`, of which the two stacks are converted: a
            torch.nn.Transformer has neither embeddings nor a projection to the vocabulary.

    Raises:
        ValueError: if the module has what torch.nn lacks (rotary positions, swiglu, scores that are not scaled,
            other norms than LayerNorm, no residuals, no causal rule).
        TypeError: if torch.nn has no such module.
    """
    raise TypeError(f"torch.nn has no counterpart of {type(module).__name__}")


@singledispatch
def from_torch(module: Any) -> Any:
    """The qkv.nn module that computes what the torch.nn `module` computes, with copies of its weights.

    Ours take the batch first, whatever the module's `batch_first` says. A torch.nn.Transformer becomes a pair
    of stacks, which fit in a model of the same shape: `model.encoder, model.decoder = from_torch(…)`.

    Raises:
        ValueError: if the module has what qkv lacks (another width for keys or values, added key and value
            biases or zeros, another activation, norms without weights or with another epsilon …).
        TypeError: if qkv has no such module.
    """
    raise TypeError(f"qkv has no counterpart of {type(module).__name__}")


@to_torch.register
def _(attention: MultiHeadAttention) -> nn.MultiheadAttention:
    _check(attention)
    options = {"dropout": attention.dropout, "bias": attention.bias, "batch_first": True}
    return _copy(attention, _ATTENTION, nn.MultiheadAttention, attention.d_model, attention.num_heads, **options)


@from_torch.register
def _(attention: nn.MultiheadAttention) -> MultiHeadAttention:
    _check(attention)
    options = {"dropout": attention.dropout, "bias": attention.in_proj_bias is not None}
    sizes = attention.embed_dim, attention.num_heads
    return _copy(attention, _reversed(_ATTENTION), MultiHeadAttention, *sizes, **options)


@to_torch.register
def _(layer: EncoderLayer | DecoderLayer) -> nn.TransformerEncoderLayer | nn.TransformerDecoderLayer:
    _check(layer)
    decodes = isinstance(layer, DecoderLayer)
    converted = _copy(
        layer,
        _DECODER_LAYER if decodes else _ENCODER_LAYER,
        nn.TransformerDecoderLayer if decodes else nn.TransformerEncoderLayer,
        layer.attention.d_model,
        layer.attention.num_heads,
        layer.feed_forward.narrow.in_features,
        dropout=layer.feed_forward_residual.dropout.probability,
        activation=layer.feed_forward.activation,
        batch_first=True,
        norm_first=layer.feed_forward_residual.norm_position == "pre",
        bias=layer.attention.bias,
    )
    converted.dropout.p = layer.feed_forward.dropout.probability
    converted.self_attn.dropout = layer.attention.dropout
    if isinstance(layer, DecoderLayer):
        converted.multihead_attn.dropout = layer.cross_attention.dropout
    return converted


@from_torch.register
def _(layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer) -> EncoderLayer | DecoderLayer:
    _check(layer)
    attentions = [part for part in layer.children() if isinstance(part, nn.MultiheadAttention)]
    dropouts = [part for part in layer.children() if isinstance(part, nn.Dropout) and part is not layer.dropout]
    config = LayerConfig(
        d_model=layer.linear1.in_features,
        num_heads=_only("numbers of heads", (attention.num_heads for attention in attentions)),
        d_ff=layer.linear1.out_features,
        dropout=_only("dropouts after sublayers", (dropout.p for dropout in dropouts)),
        attention_dropout=_only("dropouts in attention", (attention.dropout for attention in attentions)),
        activation_dropout=layer.dropout.p,
        activation=_activation_name(layer.activation),
        norm_position="pre" if layer.norm_first else "post",
        bias=layer.self_attn.in_proj_bias is not None,
    )
    decodes = isinstance(layer, nn.TransformerDecoderLayer)
    names = _reversed(_DECODER_LAYER if decodes else _ENCODER_LAYER)
    return _copy(layer, names, DecoderLayer if decodes else EncoderLayer, config)


@to_torch.register
def _(stack: Encoder | Decoder) -> nn.TransformerEncoder | nn.TransformerDecoder:
    layers = [to_torch(layer) for layer in stack.layers]
    if isinstance(stack, Decoder):
        return _filled(nn.TransformerDecoder(layers[0], 1), layers, stack)
    # As nested tensors torch's encoder would return zeros for padded positions, and only when not training.
    return _filled(nn.TransformerEncoder(layers[0], 1, enable_nested_tensor=False), layers, stack)


@from_torch.register
def _(stack: nn.TransformerEncoder | nn.TransformerDecoder) -> Encoder | Decoder:
    kind = Decoder if isinstance(stack, nn.TransformerDecoder) else Encoder
    with torch.device("meta"):
        frame = kind(TransformerConfig(vocab_size=1, encoder_layers=1, decoder_layers=1))
    return _filled(frame, [from_torch(layer) for layer in stack.layers], stack)


@to_torch.register(tuple)
def _(stacks: tuple[Encoder, Decoder]) -> nn.Transformer:
    encoder, decoder = (to_torch(stack) for stack in stacks)
    attention = encoder.layers[0].self_attn
    # The constructor initialises all it is given anew, so the stacks are put in afterwards.
    empty: dict[str, Any] = {"custom_encoder": nn.Identity(), "custom_decoder": nn.Identity()}
    converted = nn.Transformer(attention.embed_dim, attention.num_heads, batch_first=True, **empty)
    converted.encoder, converted.decoder = encoder, decoder
    converted.training = encoder.training
    return converted


@from_torch.register
def _(transformer: nn.Transformer) -> tuple[Encoder, Decoder]:
    return from_torch(transformer.encoder), from_torch(transformer.decoder)


@to_torch.register
def _(model: Transformer) -> nn.Transformer:
    return to_torch((model.encoder, model.decoder))


def _check(module: nn.Module) -> None:
    """Refuse what the other side lacks."""
    for name, part in module.named_modules():
        if isinstance(part, MultiHeadAttention):
            _require(part.rotary is None, "torch.nn has no rotary positions")
            _require(part.scale is None, "torch.nn's attention always scales its scores")
        elif isinstance(part, Residual):
            _require(part.residual, "torch.nn's layers always add their input")
        elif isinstance(part, DecoderLayer):
            _require(part.causal, "a layer that looks ahead is not converted")
        elif isinstance(part, FeedForward):
            _require(part.activation in ("relu", "gelu"), f"torch.nn's layers have no {part.activation}")
        elif isinstance(part, nn.MultiheadAttention):
            same_width = part.kdim == part.vdim == part.embed_dim
            _require(same_width, "qkv's attention has no other width for keys or values (kdim, vdim)")
            _require(part.bias_k is None, "qkv's attention adds no biases to keys and values (add_bias_kv)")
            _require(not part.add_zero_attn, "qkv's attention adds no zeros to keys and values (add_zero_attn)")
        elif name.rpartition(".")[2].startswith("norm"):
            _check_norm(part)


def _check_norm(norm: nn.Module) -> None:
    if not isinstance(norm, nn.LayerNorm) or not norm.elementwise_affine:
        raise ValueError(f"only LayerNorm with weights is converted, not {norm}")
    _require(norm.eps == _NORM_EPS, f"only norms with an epsilon of {_NORM_EPS} are converted, not {norm.eps}")


def _activation_name(activation: Any) -> Activation:
    if activation is F.relu or isinstance(activation, nn.ReLU):
        return "relu"
    if activation is F.gelu or (isinstance(activation, nn.GELU) and activation.approximate == "none"):
        return "gelu"
    raise ValueError(f"of torch's activations qkv has relu and (exact) gelu, not {activation}")


def _only(what: str, values: Iterable[Any]) -> Any:
    distinct = set(values)
    _require(len(distinct) == 1, f"a layer of qkv has no different {what} ({sorted(distinct)})")
    return distinct.pop()


def _require(condition: bool, otherwise: str) -> None:
    if not condition:
        raise ValueError(otherwise)


def _reversed(names: dict[str, str]) -> dict[str, str]:
    return {theirs: ours for ours, theirs in names.items()}


def _copy(origin: nn.Module, names: dict[str, str], kind: type, *sizes: Any, **how: Any) -> Any:
    """A module of another kind with copies of the weights of `origin`, and its mode."""

    def renamed(name: str) -> str:
        for beginning, new_beginning in names.items():
            if name.startswith(beginning):
                return new_beginning + name.removeprefix(beginning)
        raise ValueError(f"the weight {name} has no counterpart")

    with torch.device("meta"):
        converted = kind(*sizes, **how)
    weights = {renamed(name): tensor.clone() for name, tensor in origin.state_dict().items()}
    converted.load_state_dict(weights, assign=True)
    return converted.train(origin.training)


def _filled(frame: Any, layers: list[nn.Module], origin: Any) -> Any:
    """A stack with these layers in place of its own, the norm of `origin`, and its mode."""
    if origin.norm is not None:
        _check_norm(origin.norm)
    frame.layers, frame.norm = nn.ModuleList(layers), deepcopy(origin.norm)
    return frame.train(origin.training)
