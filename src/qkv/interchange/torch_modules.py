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
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn import functional as F

from qkv.nn import (
    Decoder,
    DecoderLayer,
    Encoder,
    EncoderLayer,
    LayerConfig,
    MultiHeadAttention,
    Transformer,
    TransformerConfig,
)
from qkv.nn.layers import Activation, Residual

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

_Module = TypeVar("_Module", bound=nn.Module)

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
    _check_our_attention(attention)
    with torch.device("meta"):
        converted = nn.MultiheadAttention(
            attention.d_model,
            attention.num_heads,
            dropout=attention.dropout,
            bias=attention.bias,
            batch_first=True,
        )
    return _with_weights(converted, attention, _ATTENTION)


@from_torch.register
def _(attention: nn.MultiheadAttention) -> MultiHeadAttention:
    _check_attention(attention)
    with torch.device("meta"):
        converted = MultiHeadAttention(
            attention.embed_dim,
            attention.num_heads,
            dropout=attention.dropout,
            bias=attention.in_proj_bias is not None,
        )
    return _with_weights(converted, attention, _reversed(_ATTENTION))


@to_torch.register
def _(layer: EncoderLayer) -> nn.TransformerEncoderLayer:
    with torch.device("meta"):
        converted = nn.TransformerEncoderLayer(**_torch_options(layer))
    converted.dropout.p = layer.feed_forward.dropout.probability
    converted.self_attn.dropout = layer.attention.dropout
    return _with_weights(converted, layer, _ENCODER_LAYER)


@from_torch.register
def _(layer: nn.TransformerEncoderLayer) -> EncoderLayer:
    options = _our_options(layer, [layer.self_attn], [layer.dropout1, layer.dropout2])
    with torch.device("meta"):
        converted = EncoderLayer(LayerConfig(**options))
    return _with_weights(converted, layer, _reversed(_ENCODER_LAYER))


@to_torch.register
def _(layer: DecoderLayer) -> nn.TransformerDecoderLayer:
    with torch.device("meta"):
        converted = nn.TransformerDecoderLayer(**_torch_options(layer))
    converted.dropout.p = layer.feed_forward.dropout.probability
    converted.self_attn.dropout = layer.attention.dropout
    converted.multihead_attn.dropout = layer.cross_attention.dropout
    return _with_weights(converted, layer, _DECODER_LAYER)


@from_torch.register
def _(layer: nn.TransformerDecoderLayer) -> DecoderLayer:
    dropouts = [layer.dropout1, layer.dropout2, layer.dropout3]
    options = _our_options(layer, [layer.self_attn, layer.multihead_attn], dropouts)
    with torch.device("meta"):
        converted = DecoderLayer(LayerConfig(**options))
    return _with_weights(converted, layer, _reversed(_DECODER_LAYER))


@to_torch.register
def _(encoder: Encoder) -> nn.TransformerEncoder:
    layers = [to_torch(layer) for layer in encoder.layers]
    _checked_norm(encoder.norm)
    # As nested tensors torch's encoder would return zeros for padded positions, and only when not training.
    converted = nn.TransformerEncoder(layers[0], len(layers), deepcopy(encoder.norm), enable_nested_tensor=False)
    converted.layers = nn.ModuleList(layers)
    return converted.train(encoder.training)


@from_torch.register
def _(encoder: nn.TransformerEncoder) -> Encoder:
    with torch.device("meta"):
        converted = Encoder(TransformerConfig(vocab_size=1, encoder_layers=1))  # an empty frame for what follows
    converted.layers = nn.ModuleList(from_torch(layer) for layer in encoder.layers)
    converted.norm = deepcopy(_checked_norm(encoder.norm))
    return converted.train(encoder.training)


@to_torch.register
def _(decoder: Decoder) -> nn.TransformerDecoder:
    layers = [to_torch(layer) for layer in decoder.layers]
    _checked_norm(decoder.norm)
    converted = nn.TransformerDecoder(layers[0], len(layers), deepcopy(decoder.norm))
    converted.layers = nn.ModuleList(layers)
    return converted.train(decoder.training)


@from_torch.register
def _(decoder: nn.TransformerDecoder) -> Decoder:
    with torch.device("meta"):
        converted = Decoder(TransformerConfig(vocab_size=1, decoder_layers=1))  # an empty frame for what follows
    converted.layers = nn.ModuleList(from_torch(layer) for layer in decoder.layers)
    converted.norm = deepcopy(_checked_norm(decoder.norm))
    return converted.train(decoder.training)


@to_torch.register(tuple)
def _(stacks: tuple[Encoder, Decoder]) -> nn.Transformer:
    encoder, decoder = (to_torch(stack) for stack in stacks)
    attention = encoder.layers[0].self_attn
    # The constructor initialises all it is given anew, so the stacks are put in afterwards.
    converted = nn.Transformer(
        attention.embed_dim,
        attention.num_heads,
        custom_encoder=nn.Identity(),
        custom_decoder=nn.Identity(),
        batch_first=True,
    )
    converted.encoder, converted.decoder = encoder, decoder
    converted.training = encoder.training
    return converted


@from_torch.register
def _(transformer: nn.Transformer) -> tuple[Encoder, Decoder]:
    return from_torch(transformer.encoder), from_torch(transformer.decoder)


@to_torch.register
def _(model: Transformer) -> nn.Transformer:
    return to_torch((model.encoder, model.decoder))


def _torch_options(layer: EncoderLayer | DecoderLayer) -> dict[str, Any]:
    """What torch's layer of the same shape is constructed with."""
    for part in layer.modules():
        if isinstance(part, MultiHeadAttention):
            _check_our_attention(part)
        elif isinstance(part, Residual):
            _checked_norm(part.norm)
            _require(part.residual, "torch.nn's layers always add their input")
    _require(not isinstance(layer, DecoderLayer) or layer.causal, "a layer that looks ahead is not converted")
    activation = layer.feed_forward.activation
    _require(activation in ("relu", "gelu"), f"torch.nn's layers have no {activation}")
    return {
        "d_model": layer.attention.d_model,
        "nhead": layer.attention.num_heads,
        "dim_feedforward": layer.feed_forward.narrow.in_features,
        "dropout": layer.feed_forward_residual.dropout.probability,
        "activation": activation,
        "layer_norm_eps": _NORM_EPS,
        "batch_first": True,
        "norm_first": layer.feed_forward_residual.norm_position == "pre",
        "bias": layer.attention.bias,
    }


def _our_options(
    layer: nn.TransformerEncoderLayer | nn.TransformerDecoderLayer,
    attentions: list[nn.MultiheadAttention],
    dropouts: list[nn.Dropout],
) -> dict[str, Any]:
    """What our layer of the same shape is constructed with."""
    for attention in attentions:
        _check_attention(attention)
    for name, norm in layer.named_children():
        if name.startswith("norm"):
            _checked_norm(norm)
    return {
        "d_model": layer.linear1.in_features,
        "num_heads": _only("numbers of heads", (attention.num_heads for attention in attentions)),
        "d_ff": layer.linear1.out_features,
        "dropout": _only("dropouts after sublayers", (dropout.p for dropout in dropouts)),
        "attention_dropout": _only("dropouts in attention", (attention.dropout for attention in attentions)),
        "activation_dropout": layer.dropout.p,
        "activation": _activation_name(layer.activation),
        "norm_position": "pre" if layer.norm_first else "post",
        "bias": layer.self_attn.in_proj_bias is not None,
    }


def _check_our_attention(attention: MultiHeadAttention) -> None:
    _require(attention.rotary is None, "torch.nn has no rotary positions")
    _require(attention.scale is None, "torch.nn's attention always scales its scores")


def _check_attention(attention: nn.MultiheadAttention) -> None:
    same_width = attention.kdim == attention.vdim == attention.embed_dim
    _require(same_width, "qkv's attention has no other width for keys or values (kdim, vdim)")
    _require(attention.bias_k is None, "qkv's attention adds no biases to keys and values (add_bias_kv)")
    _require(not attention.add_zero_attn, "qkv's attention adds no zeros to keys and values (add_zero_attn)")


def _checked_norm(norm: nn.Module | None) -> nn.LayerNorm | None:
    if norm is None:
        return None
    if not isinstance(norm, nn.LayerNorm) or not norm.elementwise_affine:
        raise ValueError(f"only LayerNorm with weights is converted, not {norm}")
    _require(norm.eps == _NORM_EPS, f"only norms with an epsilon of {_NORM_EPS} are converted, not {norm.eps}")
    return norm


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


def _with_weights(converted: _Module, origin: nn.Module, names: dict[str, str]) -> _Module:
    """Give `converted` (without storage so far) copies of the weights of `origin`, and its mode."""
    weights = {_renamed(name, names): tensor.clone() for name, tensor in origin.state_dict().items()}
    converted.load_state_dict(weights, assign=True)
    return converted.train(origin.training)


def _renamed(name: str, names: dict[str, str]) -> str:
    for beginning, new_beginning in names.items():
        if name.startswith(beginning):
            return new_beginning + name.removeprefix(beginning)
    raise ValueError(f"the weight {name} has no counterpart")
