"""The Transformer (Vaswani et al. 2017, figure 1): Encoder, Decoder and the two together."""

from dataclasses import dataclass
from typing import Any, cast, get_args

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.nn.cache import TransformerCache
from qkv.nn.embedding import Embedding, PositionKind
from qkv.nn.layers import Activation, DecoderLayer, EncoderLayer, LayerConfig, NormPosition
from qkv.nn.norm import NormKind, make_norm
from qkv.nn.options import Tying, check_options, make_embeddings, make_output
from qkv.nn.seq2seq import AttentionRecord, Cache, Memory, Seq2Seq

_CHOICES = {
    "activation": get_args(Activation),
    "norm": get_args(NormKind),
    "norm_position": get_args(NormPosition),
    "position": get_args(PositionKind),
}


@dataclass(frozen=True)
class TransformerConfig(LayerConfig):
    """The shape of a Transformer. Defaults are the paper's base model (table 3).

    Attributes:
        vocab_size: number of source tokens.
        target_vocab_size: number of target tokens; the source's by default.
        encoder_layers: depth of the encoder.
        decoder_layers: depth of the decoder.
        final_norm: a norm after the last layer of each stack; by default only for pre-norm, which needs it.
        max_length: number of learned positions.
        tie: which embeddings are one matrix: none; target (target and output); all (source too).
        mask_padding: whether padding of the source is hidden from attention.

    And those of its layers, see `LayerConfig`.

    Raises:
        ValueError: if values are impossible or do not fit together.
    """

    vocab_size: int
    target_vocab_size: int | None = None
    encoder_layers: int = 6
    decoder_layers: int = 6
    final_norm: bool | None = None
    max_length: int = 1024
    tie: Tying = "all"
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


def _final_norm(config: TransformerConfig) -> nn.Module | None:
    wanted = config.norm_position == "pre" if config.final_norm is None else config.final_norm
    return make_norm(config.norm, config.d_model, bias=config.bias) if wanted else None


class Encoder(nn.Module):
    """A stack of encoder layers: every source position looks at every other, at once."""

    def __init__(self, config: TransformerConfig):
        super().__init__()
        self.layers = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
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
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.norm = _final_norm(config)

    def forward(
        self,
        x: Float[Tensor, "rows target d_model"],
        memory: Float[Tensor, "batch source d_model"],
        memory_mask: Bool[Tensor, "#batch #target source"] | None = None,
        *,
        cache: TransformerCache | None = None,
        record: tuple[list[Tensor], list[Tensor]] | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """Transform `x`: with a cache the new positions only, and the cache's keys stand for `memory`."""
        if cache is not None:
            return self._step(x, memory, cache, record)
        for layer in self.layers:
            x = layer(x, memory, memory_mask, record=record)
        return x if self.norm is None else self.norm(x)

    def _step(
        self, x: Tensor, memory: Tensor, cache: TransformerCache, record: tuple[list[Tensor], list[Tensor]] | None
    ) -> Tensor:
        shape = x.shape
        seen: tuple[list[Tensor], list[Tensor]] | None = None if record is None else ([], [])
        x = cache.begin(x)
        for layer, kept in zip(self.layers, cache.layers, strict=True):
            x = layer(x, memory, cache=kept, record=seen)
        if record is not None and seen is not None:
            record[0].extend(cache.by_row(weights, of_target=True) for weights in seen[0])
            record[1].extend(cache.by_row(weights, of_target=False) for weights in seen[1])
        x = x.reshape(shape)
        return x if self.norm is None else self.norm(x)

    def start(
        self, memory: Float[Tensor, "batch source d_model"], memory_mask: Bool[Tensor, "batch source"] | None = None
    ) -> TransformerCache:
        """The cache before the first token: every layer's keys and values of the memory, computed once."""
        layers = [cast(DecoderLayer, layer) for layer in self.layers]
        key_values = [layer.cross_attention.project_key_value(memory) for layer in layers]
        return TransformerCache(key_values, memory_mask, causal=layers[0].causal)


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

    def start(self, memory: Memory) -> TransformerCache:
        """See `Seq2Seq.start`."""
        return self.decoder.start(memory.states, memory.mask)

    def decode(
        self,
        target: Int[Tensor, "rows target"],
        memory: Memory,
        cache: Cache | None = None,
        record: AttentionRecord | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """See `Seq2Seq.decode`. A right-padded target needs no mask: real tokens come before padding."""
        return self.decoder(
            self.target_embedding(target, offset=0 if cache is None else cache.length),
            memory.states,
            None if memory.mask is None else memory.mask[:, None, :],
            cache=cast(TransformerCache | None, cache),
            record=None if record is None else (record.decoder, record.cross),
        )
