"""A Transformer written for CTranslate2 (https://opennmt.net/CTranslate2), a C++ engine that decodes fast on CPUs.

The two agree on the architecture, so nothing but the layout of the weights changes. Where CTranslate2 has a table of
positions of its own we write ours, which begins at position 0 and alternates sine and cosine as the paper does.
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from torch import Tensor, nn

from qkv.decoding.shortlist import Shortlist
from qkv.errors import UserError
from qkv.nn import MultiHeadAttention, Transformer, TransformerConfig
from qkv.nn.embedding import sinusoidal_position
from qkv.nn.layers import DecoderLayer, EncoderLayer, FeedForward
from qkv.nn.seq2seq import Seq2Seq
from qkv.text.tokenizer import Tokenizer, Tokenizers

TOLERANCES: dict[str, float] = {"float32": 0.001, "int8": 0.5, "int16": 0.03, "float16": 0.03, "bfloat16": 0.3}
"""For each way to store weights, how far a token's log-probability may be from torch's; see `agreement.check`."""

POSITIONS = 4096
"""The longest sequence of an exported model whose positions are not learned: its table has to end somewhere."""


def library() -> Any:
    """The package, imported; `UserError` if it is not installed."""
    try:
        import ctranslate2
        import ctranslate2.specs
    except ImportError:
        raise UserError("CTranslate2 is not installed: pip install 'qkv[ctranslate2]'") from None
    return ctranslate2


def specification(model: Seq2Seq, tokenizers: Tokenizers, quantization: str = "float32") -> Any:
    """The model as a `ctranslate2.specs.TransformerSpec`: its `save` fills a directory for `ctranslate2.Translator`.

    Tokens are SentencePiece's pieces. A source is given with its end of sentence; an output comes without.

    The quantization of the weights is one of `TOLERANCES`. `UserError` if CTranslate2 cannot run the model, or is not
    installed.
    """
    config = supported_config(model)
    model = cast(Transformer, model)
    specs = library().specs
    activation = specs.Activation
    final_norm = config.norm_position == "pre" if config.final_norm is None else config.final_norm
    options: dict[str, Any] = {
        # With these two a stack has a place for a last norm; whether layers are pre-norm is set below.
        "pre_norm": True,
        "no_final_norm": not final_norm,
        "activation": {"relu": activation.RELU, "gelu": activation.GELU, "swiglu": activation.SWISH}[config.activation],
        "ffn_glu": config.activation == "swiglu",
    }
    if config.position == "rotary":
        options |= {"rotary_dim": config.d_model // config.num_heads, "rotary_interleave": True}
    spec = specs.TransformerSpec(
        specs.TransformerEncoderSpec(config.encoder_layers, config.num_heads, **options),
        specs.TransformerDecoderSpec(config.decoder_layers, config.num_heads, **options),
    )
    for stack, embedding, layers, norm in (
        (spec.encoder, model.source_embedding, model.encoder.layers, model.encoder.norm),
        (spec.decoder, model.target_embedding, model.decoder.layers, model.decoder.norm),
    ):
        stack.pre_norm = config.norm_position == "pre"
        tokens = stack.embeddings[0] if stack is spec.encoder else stack.embeddings
        tokens.weight = _array(embedding.tokens.weight)
        if config.position != "rotary":
            stack.position_encodings.encodings = _positions(config, embedding.position)
        for layer_spec, layer in zip(stack.layer, layers, strict=True):
            _fill_layer(layer_spec, cast(EncoderLayer | DecoderLayer, layer))
        if norm is not None:
            _fill_norm(stack.layer_norm, norm)
    spec.decoder.projection.weight = _array(model.output.weight)
    _fill_vocabularies(spec, tokenizers)
    spec.validate()
    spec.optimize(quantization=None if quantization == "float32" else quantization)
    return spec


def supported_config(model: Seq2Seq) -> TransformerConfig:
    """The model's configuration; `UserError` if CTranslate2 has no such model."""
    if not isinstance(model, Transformer):
        raise UserError(f"CTranslate2 runs Transformers, and this model is a {type(model).__name__}")
    config = model.config
    refusals = {
        f"norm={config.norm}; it has LayerNorm alone": config.norm != "layer",
        "residual=false; its sublayers always add their input": not config.residual,
        "causal=false; its decoder never looks ahead": not config.causal,
        "mask_padding=false; it always hides padding": not config.mask_padding,
    }
    for reason, applies in refusals.items():
        if applies:
            raise UserError(f"CTranslate2 cannot run a model with {reason}")
    return config


def vocabulary(tokenizer: Tokenizer) -> list[str]:
    """A name for each id: its piece, unless another id has the same one."""
    pieces = tokenizer.pieces(range(tokenizer.vocab_size))
    count = Counter(pieces)
    return [piece if count[piece] == 1 else f"{piece}#{number}" for number, piece in enumerate(pieces)]


def positions_of(config: TransformerConfig) -> int:
    """The longest sequence that the exported model can read or write."""
    return config.max_length if config.position == "learned" else POSITIONS


def write_shortlist(shortlist: Shortlist, tokenizers: Tokenizers, directory: Path) -> None:
    """Write a shortlist as the vmap.txt of an exported model: in each line a source token, a tab and its target tokens.

    An empty source token has those that are always there. Such a line cannot hold a token without a name, or with a
    space, a tab or an end of line in it; what a source token of that kind makes likely is always there.

    Raises:
        UserError: if a target token on the list is of that kind.
    """
    sources, targets = vocabulary(tokenizers.source), vocabulary(tokenizers.target)
    always = set(shortlist.always.tolist())
    lines = []
    for source, wanted in zip(sources, shortlist.candidates.tolist(), strict=True):
        if _fits_a_line(source):
            lines.append(f"{source}\t{' '.join(targets[token] for token in sorted(set(wanted) - always))}\n")
        else:
            always.update(wanted)
    lines.append(f"\t{' '.join(targets[token] for token in sorted(always))}\n")
    used = always.union(*shortlist.candidates.tolist())
    if unfit := [targets[token] for token in sorted(used) if not _fits_a_line(targets[token])]:
        raise UserError(f"CTranslate2 has no shortlist with the token {unfit[0]!r}: leave it out, or take engine torch")
    (directory / "vmap.txt").write_text("".join(lines), encoding="utf-8", newline="\n")


def _fits_a_line(token: str) -> bool:
    return token != "" and frozenset(" \t\n").isdisjoint(token)


def _fill_vocabularies(spec: Any, tokenizers: Tokenizers) -> None:
    source, target = vocabulary(tokenizers.source), vocabulary(tokenizers.target)
    for side, names, size in (
        ("source", source, spec.encoder.embeddings[0].weight.shape[0]),
        ("target", target, spec.decoder.embeddings.weight.shape[0]),
    ):
        if len(names) != size:
            raise UserError(f"the model has {size:,} {side} tokens, its tokenizer {len(names):,}")
    spec.register_source_vocabulary(source)
    spec.register_target_vocabulary(target)
    special = tokenizers.target
    spec.config.unk_token = target[special.unk]
    spec.config.bos_token = spec.config.decoder_start_token = target[special.bos]
    spec.config.eos_token = target[special.eos]
    spec.config.add_source_bos = spec.config.add_source_eos = False


def _positions(config: TransformerConfig, position: nn.Module | None) -> Any:
    if config.position == "learned":
        return _array(cast(Any, position).weight)
    if config.position == "none":
        return np.zeros((POSITIONS, config.d_model), dtype=np.float32)
    return sinusoidal_position(POSITIONS, config.d_model).float().numpy()


def _fill_layer(spec: Any, layer: EncoderLayer | DecoderLayer) -> None:
    _fill_attention(spec.self_attention, layer.attention, parts=[3])
    _fill_norm(spec.self_attention.layer_norm, layer.attention_residual.norm)
    if isinstance(layer, DecoderLayer):
        _fill_attention(spec.attention, layer.cross_attention, parts=[1, 2])
        _fill_norm(spec.attention.layer_norm, layer.cross_attention_residual.norm)
    _fill_feed_forward(spec.ffn, layer.feed_forward)
    _fill_norm(spec.ffn.layer_norm, layer.feed_forward_residual.norm)


def _fill_attention(spec: Any, attention: MultiHeadAttention, parts: Sequence[int]) -> None:
    """`parts`: how many of query, key and value each of its projections makes."""
    bounds = np.cumsum([0, *parts]) * attention.d_model
    for linear, first, last in zip(spec.linear[:-1], bounds[:-1], bounds[1:], strict=True):
        linear.weight = _array(attention.projection.weight[first:last])
        if attention.bias:
            linear.bias = _array(attention.projection.bias[first:last])
    _fill_linear(spec.linear[-1], attention.output)
    if attention.scale is not None:
        spec.queries_scale = np.float32(attention.scale)


def _fill_feed_forward(spec: Any, feed_forward: FeedForward) -> None:
    wide = feed_forward.wide
    if feed_forward.activation == "swiglu":
        gate, plain = wide.weight.chunk(2)
        spec.linear_0.weight, spec.linear_0_noact.weight = _array(gate), _array(plain)
        if wide.bias is not None:
            gate, plain = wide.bias.chunk(2)
            spec.linear_0.bias, spec.linear_0_noact.bias = _array(gate), _array(plain)
    else:
        _fill_linear(spec.linear_0, wide)
    _fill_linear(spec.linear_1, feed_forward.narrow)


def _fill_linear(spec: Any, linear: nn.Linear) -> None:
    spec.weight = _array(linear.weight)
    if linear.bias is not None:
        spec.bias = _array(linear.bias)


def _fill_norm(spec: Any, norm: nn.Module) -> None:
    norm = cast(nn.LayerNorm, norm)
    spec.gamma = _array(norm.weight)
    # Without a bias CTranslate2 would take it for an RMSNorm.
    spec.beta = np.zeros(norm.normalized_shape, dtype=np.float32) if norm.bias is None else _array(norm.bias)


def _array(tensor: Tensor) -> Any:
    """A copy in float32: quantisation scales the array that it is given in place."""
    return tensor.detach().float().cpu().numpy().copy()
