"""A Transformer as a MarianMTModel of Hugging Face's `transformers`, and back.

The paper's post-norm Transformer is what Marian computes, but for the order of channels: its positions are all sines,
then all cosines, where the paper (section 3.5) and we alternate them. Nothing but the positions tells one channel of
the residual stream from another, so all that reads or writes the stream is permuted, and the results are the same.
"""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qkv.decoding.engines.agreement import Searcher
from qkv.decoding.engines.contract import Request
from qkv.decoding.hypothesis import Hypothesis
from qkv.errors import UserError
from qkv.interchange.target import Target, write_tokenizers
from qkv.nn import MultiHeadAttention, Transformer, TransformerConfig
from qkv.nn.layers import DecoderLayer, EncoderLayer
from qkv.nn.options import Tying
from qkv.nn.seq2seq import Seq2Seq
from qkv.run.checkpoint import read_tensors
from qkv.text.tokenizer import Tokenizers

POSITIONS = 1024
"""The longest sequence of an exported model: Marian's table of sinusoids ends somewhere."""


class Marian(Target):
    """A directory that `MarianMTModel.from_pretrained` and `MarianTokenizer.from_pretrained` read."""

    title = "Marian"
    usage = """\
from transformers import MarianMTModel, MarianTokenizer

model = MarianMTModel.from_pretrained(path)
tokenizer = MarianTokenizer.from_pretrained(path)
found = model.generate(**tokenizer("A man sleeps.", return_tensors="pt"))
print(tokenizer.decode(found[0], skip_special_tokens=True))"""

    def refuse(self, model: Seq2Seq) -> None:
        """See `Target`."""
        if not isinstance(model, Transformer):
            raise UserError(f"Marian is a Transformer, and this model is a {type(model).__name__}")
        config = model.config
        refusals = {
            f"norm={config.norm}; it has LayerNorm alone": config.norm != "layer",
            "norm_position=pre; it is post-norm": config.norm_position == "pre",
            "final_norm=true; it has none": config.final_norm is True,
            "residual=false; its sublayers always add their input": not config.residual,
            "scale_scores=false; it always scales them": not config.scale_scores,
            f"activation={config.activation}; it has relu and gelu": config.activation == "swiglu",
            f"position={config.position}; its positions are sinusoidal": config.position != "sinusoidal",
            "causal=false; its decoder never looks ahead": not config.causal,
            "mask_padding=false; it always hides padding": not config.mask_padding,
        }
        for reason, applies in refusals.items():
            if applies:
                raise UserError(f"Marian has no model with {reason}")

    def write(self, model: Seq2Seq, tokenizers: Tokenizers, directory: Path, quantization: str = "float32") -> None:
        """See `Target`."""
        model = cast(Transformer, model)
        save_file(_to_marian(model), directory / "model.safetensors", metadata={"format": "pt"})
        for name, content in _described(model.config, tokenizers).items():
            (directory / name).write_text(json.dumps(content, ensure_ascii=False, indent=1), encoding="utf-8")
        write_tokenizers(tokenizers, directory)

    def read(self, model: Seq2Seq, tokenizers: Tokenizers, directory: Path, quantization: str) -> Searcher:
        """See `Target`."""
        return _Reader(directory, tokenizers)


MARIAN = Marian()


class _Reader:
    """The exported model in the hands of `transformers`: scores, and searches greedily."""

    def __init__(self, directory: Path, tokenizers: Tokenizers):
        try:
            from transformers import MarianMTModel
            from transformers.utils import logging
        except ImportError:
            raise UserError("transformers is not installed: pip install 'qkv[huggingface]'") from None
        bars = logging.is_progress_bar_enabled()
        logging.disable_progress_bar()
        self._model: Any = MarianMTModel.from_pretrained(directory).eval()
        if bars:
            logging.enable_progress_bar()
        self._special = tokenizers.target

    @torch.no_grad()
    def search(self, request: Request) -> list[list[Hypothesis]]:
        found = []
        for source in request.sources:
            limit = request.options.length_limits([len(source)], POSITIONS)[0]
            [ids] = self._model.generate(torch.tensor([source]), max_length=limit + 1, num_beams=1, do_sample=False)
            tokens = ids[1:].tolist()
            ended = tokens[-1] == self._special.eos
            found.append([Hypothesis(tokens[:-1] if ended else tokens, 0.0, 0.0, finished=ended)])
        return found

    @torch.no_grad()
    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        rows = []
        for source, target in zip(sources, targets, strict=True):
            before = torch.tensor([[self._special.bos, *target[:-1]]])
            logits = self._model(input_ids=torch.tensor([source]), decoder_input_ids=before).logits[0]
            rows.append(logits.log_softmax(-1)[range(len(target)), list(target)].tolist())
        return rows


def import_marian(path: str | Path) -> Transformer:
    """The model of a directory that holds a MarianMTModel, in float32 and evaluation mode. Its ids stay as they are.

    Raises:
        UserError: if there is no such model, or it has what a `Transformer` lacks: another activation than relu or
            gelu, a bias on the output, embeddings that are not scaled, or an encoder and decoder of unlike width.
    """
    path = Path(path)
    model = Transformer(_our_config(path))
    weights = read_tensors(path / "model.safetensors")
    bias = weights.get("final_logits_bias")
    if bias is not None and bias.any():
        raise UserError(f"{path}: the output has a bias (final_logits_bias), which a Transformer lacks")
    with torch.no_grad():
        for name, ours, stream in _weights(model):
            theirs = next((weights[tied] for tied in (name, *_TIED.get(name, ())) if tied in weights), None)
            if theirs is None:
                raise UserError(f"{path}/model.safetensors: {name} is missing")
            if theirs.shape != ours.shape:
                raise UserError(f"{path}: {name} is {tuple(theirs.shape)}; its config says {tuple(ours.shape)}")
            ours.copy_(theirs if stream is None else theirs.index_select(stream, _order(model).argsort()))
    return model.eval()


# Weights

_TIED = {  # under which names a weight may also be found
    "model.shared.weight": ("model.encoder.embed_tokens.weight", "lm_head.weight"),
    "model.encoder.embed_tokens.weight": ("model.shared.weight",),
    "model.decoder.embed_tokens.weight": ("model.shared.weight", "lm_head.weight"),
}


def _to_marian(model: Transformer) -> dict[str, Tensor]:
    weights = {
        name: (ours if stream is None else ours.index_select(stream, _order(model).to(ours.device)))
        for name, ours, stream in _weights(model)
    }
    weights["final_logits_bias"] = torch.zeros(1, model.output.out_features)
    return {name: tensor.detach().float().cpu().contiguous().clone() for name, tensor in weights.items()}


def _order(model: Transformer) -> Tensor:
    """Our channel for each of Marian's: the even ones, which have sines, then the odd ones."""
    channels = torch.arange(model.config.d_model)
    return torch.cat([channels[0::2], channels[1::2]])


def _weights(model: Transformer) -> Iterator[tuple[str, Tensor, int | None]]:
    """Every weight: (Marian's name, ours or a part of ours, the dimension that runs over the residual stream)."""
    source, target = model.source_embedding.tokens.weight, model.target_embedding.tokens.weight
    if source is target:
        yield "model.shared.weight", source, 1
    else:
        yield "model.encoder.embed_tokens.weight", source, 1
        yield "model.decoder.embed_tokens.weight", target, 1
    if model.output.weight is not target:
        yield "lm_head.weight", model.output.weight, 1
    for stack, layers in (("encoder", model.encoder.layers), ("decoder", model.decoder.layers)):
        for number, module in enumerate(layers):
            layer, name = cast(EncoderLayer | DecoderLayer, module), f"model.{stack}.layers.{number}"
            yield from _attention(f"{name}.self_attn", layer.attention, layer.attention_residual.norm)
            if isinstance(layer, DecoderLayer):
                norm = layer.cross_attention_residual.norm
                yield from _attention(f"{name}.encoder_attn", layer.cross_attention, norm)
            yield from _affine(f"{name}.fc1", layer.feed_forward.wide, reads=True)
            yield from _affine(f"{name}.fc2", layer.feed_forward.narrow)
            yield from _affine(f"{name}.final_layer_norm", layer.feed_forward_residual.norm)


def _attention(name: str, attention: MultiHeadAttention, norm: nn.Module) -> Iterator[tuple[str, Tensor, int | None]]:
    for kind, whole, dimension in _affine(name, attention.projection, reads=True):
        for part, third in zip(("q_proj", "k_proj", "v_proj"), whole.chunk(3), strict=True):
            yield f"{name}.{part}{kind.removeprefix(name)}", third, dimension
    yield from _affine(f"{name}.out_proj", attention.output)
    yield from _affine(f"{name}_layer_norm", norm)


def _affine(name: str, module: Any, *, reads: bool = False) -> Iterator[tuple[str, Tensor, int | None]]:
    """A linear map that reads the residual stream, or one that writes to it, as a norm does. Marian's have a bias."""
    yield f"{name}.weight", module.weight, 1 if reads else 0
    bias = module.weight.new_zeros(len(module.weight)) if module.bias is None else module.bias
    yield f"{name}.bias", bias, None if reads else 0


# Configuration

_ALIKE = ("vocab_size", "d_model", "encoder_layers", "decoder_layers", "dropout", "attention_dropout")
_KEYS = {name: name for name in (*_ALIKE, "activation_dropout")} | {
    "target_vocab_size": "decoder_vocab_size",
    "num_heads": "encoder_attention_heads",
    "d_ff": "encoder_ffn_dim",
    "activation": "activation_function",
}
_DEFAULTS = {  # of keys that config.json may lack
    "decoder_vocab_size": None,
    "dropout": 0.1,
    "attention_dropout": 0.0,
    "activation_dropout": 0.0,
    "tie_word_embeddings": True,
    "share_encoder_decoder_embeddings": True,
    "scale_embedding": False,
}


def _described(config: TransformerConfig, tokenizers: Tokenizers) -> dict[str, Any]:
    """What is written as JSON: of the model, and of its vocabularies, as they lie beside the SentencePiece models."""
    source, target = tokenizers.source, tokenizers.target
    special = {
        "decoder_start_token_id": target.bos,
        "bos_token_id": target.bos,
        "eos_token_id": target.eos,
        "pad_token_id": target.pad,
    }
    model = {theirs: getattr(config, ours) for ours, theirs in _KEYS.items()} | {
        "architectures": ["MarianMTModel"],
        "model_type": "marian",
        "is_encoder_decoder": True,
        "decoder_vocab_size": config.target_vocab_size or config.vocab_size,
        "decoder_attention_heads": config.num_heads,
        "decoder_ffn_dim": config.d_ff,
        "max_position_embeddings": POSITIONS,
        "scale_embedding": True,
        "share_encoder_decoder_embeddings": config.tie == "all",
        "tie_word_embeddings": config.tie != "none",
        "forced_eos_token_id": None,
    }
    pieces = target.pieces([target.unk, target.eos, target.pad])
    tokenizer: dict[str, Any] = dict(zip(("unk_token", "eos_token", "pad_token"), pieces, strict=True))
    tokenizer |= {"tokenizer_class": "MarianTokenizer", "separate_vocabs": not tokenizers.joint}
    files = {
        "config.json": special | model,
        "generation_config.json": special | {"suppress_tokens": [target.pad, target.bos], "max_length": 512},
        "tokenizer_config.json": tokenizer | {"model_max_length": POSITIONS},
    }
    for name, side in (("vocab.json", source), ("target_vocab.json", target))[: 1 if tokenizers.joint else 2]:
        files[name] = {piece: number for number, piece in enumerate(side.pieces(range(side.vocab_size)))}
    return files


def _our_config(path: Path) -> TransformerConfig:
    try:
        theirs = _DEFAULTS | json.loads((path / "config.json").read_text(encoding="utf-8"))
        if theirs.get("model_type") != "marian":
            raise UserError(f"{path}: no Marian model, but {theirs.get('model_type', 'something else')!r}")
        activation = theirs["activation_function"]
        if activation not in ("relu", "gelu"):
            raise UserError(f"{path}: activation_function is {activation}; a Transformer has relu and gelu")
        if not theirs["scale_embedding"]:
            raise UserError(f"{path}: scale_embedding is false; a Transformer always scales")
        for key in ("attention_heads", "ffn_dim"):
            if theirs[f"encoder_{key}"] != theirs[f"decoder_{key}"]:
                raise UserError(f"{path}: {key} differs between encoder and decoder")
        tied, shared = theirs["tie_word_embeddings"], theirs["share_encoder_decoder_embeddings"]
        tie: Tying = "none" if not tied else "all" if shared else "target"
        return TransformerConfig(**{ours: theirs[key] for ours, key in _KEYS.items()}, tie=tie)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}/config.json: does not describe a Marian model ({error!r})") from None
