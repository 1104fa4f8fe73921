"""The Transformer (Vaswani et al. 2017, figure 1): Encoder, Decoder and the two together."""

from dataclasses import dataclass
from typing import Any, cast, get_args

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.nn.cache import TransformerState
from qkv.nn.embedding import Embedding, PositionKind
from qkv.nn.layers import Activation, DecoderLayer, EncoderLayer, NormPosition
from qkv.nn.norm import NormKind, make_norm
from qkv.nn.options import Tying, check_options, make_embeddings, make_output
from qkv.nn.seq2seq import AttentionRecord, Memory, Seq2Seq, State

_CHOICES = {
    "activation": get_args(Activation),
    "norm": get_args(NormKind),
    "norm_position": get_args(NormPosition),
    "position": get_args(PositionKind),
}


@dataclass(frozen=True)
class TransformerConfig:
    """The shape of a Transformer. Defaults are the paper's base model (table 3).

    Attributes:
        vocab_size: number of source tokens.
        target_vocab_size: number of target tokens; the source's by default.
        d_model: width of every token's vector.
        num_heads: attention heads per layer.
        d_ff: width between the two maps of the feed-forward layer.
        encoder_layers: depth of the encoder.
        decoder_layers: depth of the decoder.
        dropout: on embeddings and on each sublayer's output.
        attention_dropout: on the attention weights.
        activation_dropout: inside the feed-forward layer.
        activation: relu, gelu or swiglu (gated).
        norm: layer (the paper's), batch or none.
        norm_position: post (the paper's) or pre.
        final_norm: a norm after the last layer of each stack; by default only for pre-norm, which needs it.
        residual: whether a sublayer's input is added to its output.
        scale_scores: whether scores are divided by the square root of a head's width.
        position: sinusoidal, learned, rotary or none.
        max_length: number of learned positions.
        tie: which embeddings are one matrix: none; target (target and output); all (source too).
        bias: whether linear maps and norms have one (the output projection never has).
        causal: whether a target position sees only those before it; without, training peeks at what it is to predict.
        mask_padding: whether padding of the source is hidden from attention.

    Raises:
        ValueError: if values are impossible or do not fit together.
    """

    vocab_size: int
    target_vocab_size: int | None = None
    d_model: int = 512
    num_heads: int = 8
    d_ff: int = 2048
    encoder_layers: int = 6
    decoder_layers: int = 6
    dropout: float = 0.1
    attention_dropout: float = 0.0
    activation_dropout: float = 0.0
    activation: Activation = "relu"
    norm: NormKind = "layer"
    norm_position: NormPosition = "post"
    final_norm: bool | None = None
    residual: bool = True
    scale_scores: bool = True
    position: PositionKind = "sinusoidal"
    max_length: int = 1024
    tie: Tying = "all"
    bias: bool = True
    causal: bool = True
    mask_padding: bool = True

    def __post_init__(self) -> None:
        check_options(
            self,
            counts=("num_heads", "d_ff", "encoder_layers", "decoder_layers", "max_length"),
            shares=("dropout", "attention_dropout", "activation_dropout"),
            choices=_CHOICES,
        )
        if self.d_model % self.num_heads != 0:
            raise ValueError(f"d_model ({self.d_model}) must be a multiple of num_heads ({self.num_heads})")
        if self.position == "rotary" and (self.d_model // self.num_heads) % 2 != 0:
            raise ValueError(f"rotary positions need heads of even width, got {self.d_model // self.num_heads}")

    @property
    def longest(self) -> int | None:
        """The most tokens that a sequence may have; None if its positions are not learned one by one."""
        return self.max_length if self.position == "learned" else None

    @classmethod
    def tiny(cls, vocab_size: int, **changes: Any) -> "TransformerConfig":
        """4+4 layers, 128 wide: the size that suits 30,000 pairs (Wu et al. 2021)."""
        return cls(vocab_size, **(PRESETS["tiny"] | changes))

    @classmethod
    def small(cls, vocab_size: int, **changes: Any) -> "TransformerConfig":
        """3+3 layers, 256 wide."""
        return cls(vocab_size, **(PRESETS["small"] | changes))

    @classmethod
    def base(cls, vocab_size: int, **changes: Any) -> "TransformerConfig":
        """The paper's base model: 6+6 layers, 512 wide."""
        return cls(vocab_size, **(PRESETS["base"] | changes))

    @classmethod
    def big(cls, vocab_size: int, **changes: Any) -> "TransformerConfig":
        """The paper's big model: 6+6 layers, 1,024 wide."""
        return cls(vocab_size, **(PRESETS["big"] | changes))


def _preset(d_model: int, num_heads: int, d_ff: int, layers: int, dropout: float) -> dict[str, Any]:
    return {
        "d_model": d_model,
        "num_heads": num_heads,
        "d_ff": d_ff,
        "encoder_layers": layers,
        "decoder_layers": layers,
        "dropout": dropout,
    }


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": _preset(d_model=128, num_heads=4, d_ff=256, layers=4, dropout=0.3),
    "small": _preset(d_model=256, num_heads=4, d_ff=1024, layers=3, dropout=0.1),
    "base": _preset(d_model=512, num_heads=8, d_ff=2048, layers=6, dropout=0.1),
    "big": _preset(d_model=1024, num_heads=16, d_ff=4096, layers=6, dropout=0.3),
}


def _layer_options(config: TransformerConfig) -> dict[str, Any]:
    return {
        "d_model": config.d_model,
        "num_heads": config.num_heads,
        "d_ff": config.d_ff,
        "dropout": config.dropout,
        "attention_dropout": config.attention_dropout,
        "activation_dropout": config.activation_dropout,
        "activation": config.activation,
        "norm": config.norm,
        "norm_position": config.norm_position,
        "residual": config.residual,
        "scale_scores": config.scale_scores,
        "rotary": config.position == "rotary",
        "bias": config.bias,
    }


def _final_norm(config: TransformerConfig) -> nn.Module | None:
    wanted = config.norm_position == "pre" if config.final_norm is None else config.final_norm
    return make_norm(config.norm, config.d_model, bias=config.bias) if wanted else None


class Encoder(nn.Module):
    """A stack of encoder layers: every source position looks at every other, at once."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(**_layer_options(config)) for _ in range(config.encoder_layers))
        self.norm = _final_norm(config)

    def forward(
        self,
        x: Float[Tensor, "batch source d_model"],
        mask: Bool[Tensor, "#batch #source source"] | None = None,
        record: list[Tensor] | None = None,
    ) -> Float[Tensor, "batch source d_model"]:
        """Transform `x` layer by layer; every layer's attention weights are appended to `record` if given."""
        for layer in self.layers:
            x = layer(x, mask, record)
        return x if self.norm is None else self.norm(x)


class Decoder(nn.Module):
    """A stack of decoder layers: every target position looks at those before it and at the memory."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.layers = nn.ModuleList(
            DecoderLayer(**_layer_options(config), causal=config.causal) for _ in range(config.decoder_layers)
        )
        self.norm = _final_norm(config)

    def forward(
        self,
        x: Float[Tensor, "rows target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        memory_mask: Bool[Tensor, "#batch #target source"] | None = None,
        *,
        state: TransformerState | None = None,
        record: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """Transform `x`: with a state the new positions only, and the state's keys stand for `memory`."""
        if state is not None:
            state.extend(x.shape[0], x.shape[1])
        for index, layer in enumerate(self.layers):
            if state is None:
                x = layer(x, memory, memory_mask, record=record)
            else:
                x = cast(DecoderLayer, layer).step(x, state, index, record)
        return x if self.norm is None else self.norm(x)

    def start(
        self, memory: Float[Tensor, "batch source d_model"], memory_mask: Bool[Tensor, "batch source"] | None = None
    ) -> TransformerState:
        """The state before the first token: every layer's keys and values of the memory, computed once."""
        layers = [cast(DecoderLayer, layer) for layer in self.layers]
        key_values = [layer.cross_attention.project_key_value(memory) for layer in layers]
        return TransformerState(key_values, memory_mask, causal=layers[0].causal)


class Transformer(Seq2Seq):
    """Embeddings, Encoder, Decoder and the projection to the target vocabulary.

    >>> model = Transformer(TransformerConfig.base(vocab_size=37_000))
    >>> logits = model(source, target)          # (batch, target, vocab)
    """

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.config = config
        self.longest = config.longest
        self.divisible = config.norm != "batch"
        source_tokens, target_tokens = make_embeddings(config)
        self.source_embedding = Embedding(source_tokens, config.position, config.dropout, config.max_length)
        self.target_embedding = Embedding(target_tokens, config.position, config.dropout, config.max_length)
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.output = make_output(config, target_tokens)

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        record: AttentionRecord | None = None,
    ) -> Memory:
        """See `Seq2Seq.encode`."""
        if not self.config.mask_padding:
            source_mask = None
        mask = None if source_mask is None else source_mask[:, None, :]
        states = self.encoder(self.source_embedding(source), mask, None if record is None else record.encoder)
        return Memory(states, source_mask)

    def start(self, memory: Memory) -> TransformerState:
        """See `Seq2Seq.start`."""
        return self.decoder.start(memory.states, memory.mask)

    def decode(
        self,
        target: Int[Tensor, "rows target"],
        memory: Memory,
        state: State | None = None,
        record: AttentionRecord | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """See `Seq2Seq.decode`. A right-padded target needs no mask: real tokens come before padding."""
        state = cast(TransformerState | None, state)
        memory_mask = None if memory.mask is None else memory.mask[:, None, :]
        return self.decoder(
            self.target_embedding(target, offset=0 if state is None else state.length),
            memory.states,
            memory_mask,
            state=state,
            record=None if record is None else (record.decoder, record.cross),
        )
