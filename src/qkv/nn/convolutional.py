"""Convolutional encoder–decoder (Gehring et al. 2017, "Convolutional Sequence to Sequence Learning").

A layer sees `kernel_size` neighbours, so the view widens with depth, and all positions of a layer are computed at once.
Three things differ from the paper. Scores are divided by √d_model, as our embeddings have a variance of 1, not 0.01.
Weight normalisation and the scaling of the encoder's gradient are left out: both served plain gradient descent.
"""

import math
from dataclasses import dataclass, field
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from qkv.nn.attention import attention
from qkv.nn.dropout import Dropout
from qkv.nn.embedding import Embedding
from qkv.nn.options import Tying, check_options, make_embeddings, make_output
from qkv.nn.seq2seq import AttentionRecord, Cache, CountingCache, Memory, Seq2Seq

AddedPosition = Literal["sinusoidal", "learned", "none"]
_HALF = math.sqrt(0.5)  # keeps the variance of a sum of two at that of one (section 3.4)


@dataclass(frozen=True)
class ConvolutionalConfig:
    """The shape of a convolutional encoder–decoder.

    Attributes:
        vocab_size: number of source tokens.
        target_vocab_size: number of target tokens; the source's by default.
        d_model: width of embeddings and layers.
        encoder_layers: depth of the encoder.
        decoder_layers: depth of the decoder; every layer attends to the source.
        kernel_size: tokens that a layer sees at once; odd, so that the encoder looks equally far to both sides.
        dropout: on embeddings and on the input of every layer.
        position: sinusoidal, learned (the paper's) or none.
        max_length: number of learned positions.
        tie: which embeddings are one matrix: none; target (target and output); all (source too).

    Raises:
        ValueError: if values are impossible or do not fit together.
    """

    vocab_size: int
    target_vocab_size: int | None = None
    d_model: int = 512
    encoder_layers: int = 8
    decoder_layers: int = 8
    kernel_size: int = 3
    dropout: float = 0.1
    position: AddedPosition = "learned"
    max_length: int = 1024
    tie: Tying = "all"

    def __post_init__(self) -> None:
        check_options(
            self,
            counts=("encoder_layers", "decoder_layers", "kernel_size", "max_length"),
            shares=("dropout",),
            choices={"position": get_args(AddedPosition)},
        )
        if self.kernel_size % 2 == 0:
            raise ValueError(f"kernel_size must be odd, got {self.kernel_size}")

    @property
    def longest(self) -> int | None:
        """The most tokens that a sequence may have; None if its positions are not learned one by one."""
        return self.max_length if self.position == "learned" else None


PRESETS: dict[str, dict[str, Any]] = {
    "tiny": {"d_model": 132, "encoder_layers": 4, "decoder_layers": 4, "dropout": 0.3},
    "small": {"d_model": 244, "encoder_layers": 6, "decoder_layers": 6, "dropout": 0.1},
    "base": {"d_model": 512, "encoder_layers": 12, "decoder_layers": 12, "dropout": 0.1},
}


@dataclass
class ConvolutionalMemory(Memory):
    """The source's states, which are the keys, and what is gathered.

    Attributes:
        values: a state plus the embedding it came from: what was read, beside what was made of it (section 3.3).
    """

    values: Float[Tensor, "batch source d_model"] = field(kw_only=True)


class ConvolutionalState(CountingCache):
    """Per decoder layer the last kernel_size − 1 inputs, which the next token's window still covers."""

    def __init__(self, windows: list[Tensor], sentences: int):
        super().__init__(sentences)
        self.windows: list[Float[Tensor, "rows past d_model"]] = windows

    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """See `Cache.reorder`."""
        self.rows = len(rows)
        self.windows = [window.index_select(0, rows) for window in self.windows]


class GatedConvolution(nn.Module):
    """Each position reads its window; one half of the result gates the other (Dauphin et al. 2017).

    The dropout is the input's, known here because it sets the size of the initial weights (section 3.5).
    """

    def __init__(self, d_model: int, kernel_size: int, *, dropout: float = 0.0):
        super().__init__()
        self.kernel_size = kernel_size
        self.linear = nn.Linear(kernel_size * d_model, 2 * d_model)
        nn.init.normal_(self.linear.weight, std=math.sqrt(4 * (1.0 - dropout) / (kernel_size * d_model)))
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Float[Tensor, "rows padded d_model"]) -> Float[Tensor, "rows length d_model"]:
        """Convolve without padding: the output is shorter by kernel_size − 1.

        The windows are laid out side by side, which makes the convolution one matrix product.
        """
        length = x.shape[1] - self.kernel_size + 1
        windows = torch.cat([x[:, first : first + length] for first in range(self.kernel_size)], dim=-1)
        return F.glu(self.linear(windows), dim=-1)


class EncoderLayer(nn.Module):
    """A gated convolution over both neighbours, added to its input."""

    def __init__(self, config: ConvolutionalConfig):
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.convolution = GatedConvolution(config.d_model, config.kernel_size, dropout=config.dropout)

    def forward(
        self, x: Float[Tensor, "batch source d_model"], mask: Bool[Tensor, "batch source"] | None = None
    ) -> Float[Tensor, "batch source d_model"]:
        """Padding (False in `mask`) reads as zeros, as what lies beyond either end does."""
        seen = self.dropout(x)
        if mask is not None:
            seen = seen * mask[:, :, None].to(seen.dtype)
        reach = self.convolution.kernel_size // 2
        return (x + self.convolution(F.pad(seen, (0, 0, reach, reach)))) * _HALF


class DecoderLayer(nn.Module):
    """A gated convolution over what came before, then attention to the source (section 3.3), added to its input."""

    def __init__(self, config: ConvolutionalConfig):
        super().__init__()
        self.dropout = Dropout(config.dropout)
        self.convolution = GatedConvolution(config.d_model, config.kernel_size, dropout=config.dropout)
        self.query = nn.Linear(config.d_model, config.d_model)
        self.found = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        x: Float[Tensor, "rows target d_model"],
        embedded: Float[Tensor, "rows target d_model"],
        memory: ConvolutionalMemory,
        past: Float[Tensor, "rows past d_model"],
        record: list[Tensor] | None = None,
    ) -> tuple[Float[Tensor, "rows target d_model"], Float[Tensor, "rows past d_model"]]:
        """The layer's output, and the inputs that the next window still covers.

        Args:
            x: the layer's input.
            embedded: the target's embedding, which is part of every layer's query.
            memory: the source.
            past: the kernel_size − 1 inputs before `x`; zeros before the first token.
            record: the weights are appended to it if given.
        """
        seen = torch.cat([past, self.dropout(x)], dim=1)
        states = self.convolution(seen)
        query = (self.query(states) + embedded) * _HALF
        states = (states + self.found(self._attend(query, memory, record))) * _HALF
        return (x + states) * _HALF, seen[:, seen.shape[1] - past.shape[1] :]

    def _attend(self, query: Tensor, memory: ConvolutionalMemory, record: list[Tensor] | None) -> Tensor:
        """Σ weight · value, times √m for a source of m tokens: the more it averages over, the less it varies."""
        source = memory.states
        queries = query.reshape(source.shape[0], -1, query.shape[-1])  # beams are more queries to the same source
        mask = None if memory.mask is None else memory.mask[:, None, :]
        if record is None:
            found = attention(queries, source, memory.values, mask)
        else:
            found, weights = attention(queries, source, memory.values, mask, return_weights=True)
            record.append(weights.reshape(query.shape[0], 1, query.shape[1], -1))
        if memory.mask is None:
            found = found * math.sqrt(source.shape[1])
        else:
            found = found * memory.mask.sum(dim=1).to(found.dtype).sqrt()[:, None, None]
        return found.reshape(query.shape)


class ConvolutionalSeq2Seq(Seq2Seq):
    """Stacks of gated convolutions, with attention in every decoder layer.

    >>> model = ConvolutionalSeq2Seq(ConvolutionalConfig(vocab_size=8_000))
    >>> logits = model(source, target)          # (batch, target, vocab)
    """

    def __init__(self, config: ConvolutionalConfig):
        super().__init__()
        self.config = config
        self.longest = config.longest
        self.divisible = True
        source_tokens, target_tokens = make_embeddings(config)
        self.source_embedding = Embedding(source_tokens, config.position, config.dropout, config.max_length)
        self.target_embedding = Embedding(target_tokens, config.position, config.dropout, config.max_length)
        self.encoder = nn.ModuleList(EncoderLayer(config) for _ in range(config.encoder_layers))
        self.decoder = nn.ModuleList(DecoderLayer(config) for _ in range(config.decoder_layers))
        self.hidden = nn.Linear(config.d_model, config.d_model)
        self.dropout = Dropout(config.dropout)
        self.output = make_output(config, target_tokens)

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        record: AttentionRecord | None = None,
    ) -> ConvolutionalMemory:
        """See `Seq2Seq.encode`; there is no attention in a convolutional encoder."""
        embedded = self.source_embedding(source)
        states = embedded
        for layer in self.encoder:
            states = layer(states, source_mask)
        return ConvolutionalMemory(states, source_mask, values=(states + embedded) * _HALF)

    def start(self, memory: Memory) -> ConvolutionalState:
        """See `Seq2Seq.start`: before the first token there is nothing, which reads as zeros."""
        batch, _, width = memory.states.shape
        past = memory.states.new_zeros(batch, self.config.kernel_size - 1, width)
        return ConvolutionalState([past] * len(self.decoder), sentences=batch)

    def decode(
        self,
        target: Int[Tensor, "rows target"],
        memory: Memory,
        cache: Cache | None = None,
        record: AttentionRecord | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """See `Seq2Seq.decode`. Training is a walk from the same start as a search, with the true tokens given."""
        convolutional = self.start(memory) if cache is None else cast(ConvolutionalState, cache)
        embedded = self.target_embedding(target, offset=convolutional.length)
        x = embedded
        for index, layer in enumerate(self.decoder):
            x, convolutional.windows[index] = layer(
                x,
                embedded,
                cast(ConvolutionalMemory, memory),
                convolutional.windows[index],
                None if record is None else record.cross,
            )
        convolutional.advance(target.shape[1])
        return self.dropout(self.hidden(x))
