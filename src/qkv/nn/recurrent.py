"""Recurrent encoder–decoders: one state squeezes a sentence, and attention lets the decoder look back.

Sutskever et al. 2014 and Cho et al. 2014 (fixed context), Bahdanau et al. 2015 (additive attention), Luong et al. 2015
(multiplicative attention).
"""

from dataclasses import dataclass
from typing import Any, Literal, cast, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from qkv.nn.embedding import Embedding
from qkv.nn.options import Tying, check_options, make_embeddings, make_output
from qkv.nn.recurrence import Cell, Recurrence
from qkv.nn.recurrent_attention import AlignmentKind
from qkv.nn.recurrent_decoder import RecurrentMemory, RecurrentState, make_decoder
from qkv.nn.seq2seq import AttentionRecord, Cache, Memory, Seq2Seq


@dataclass(frozen=True)
class RecurrentConfig:
    """The shape of a recurrent encoder–decoder.

    Attributes:
        vocab_size: number of source tokens.
        target_vocab_size: number of target tokens; the source's by default.
        cell: rnn (tanh), gru or lstm.
        attention: none (the decoder knows the source by one vector), additive (Bahdanau), dot or general (Luong).
        input_feeding: for dot and general, what was attended to at one step is an input of the next.
        d_model: width of embeddings and states; each direction of the encoder has half of it.
        encoder_layers: depth of the encoder, which reads in both directions.
        decoder_layers: depth of the decoder.
        dropout: on embeddings, between layers and on the decoder's output.
        tie: which embeddings are one matrix: none; target (target and output); all (source too).

    Raises:
        ValueError: if values are impossible or do not fit together.
    """

    vocab_size: int
    target_vocab_size: int | None = None
    cell: Cell = "gru"
    attention: Literal["none"] | AlignmentKind = "additive"
    input_feeding: bool = False
    d_model: int = 512
    encoder_layers: int = 2
    decoder_layers: int = 2
    dropout: float = 0.1
    tie: Tying = "all"

    def __post_init__(self) -> None:
        check_options(
            self,
            counts=("encoder_layers", "decoder_layers"),
            shares=("dropout",),
            choices={"cell": get_args(Cell), "attention": ("none", *get_args(AlignmentKind))},
        )
        if self.d_model % 2 != 0:
            raise ValueError(f"d_model must be even, for two directions of equal width; got {self.d_model}")
        if self.input_feeding and self.attention not in ("dot", "general"):
            raise ValueError(
                f"input_feeding is for dot and general attention, not {self.attention}: without attention there is "
                "nothing to feed, and additive attention feeds what it finds as it is"
            )

    @property
    def longest(self) -> None:
        """A recurrent model takes sequences of any length."""
        return None


def _presets(tiny: int, small: int, base: int) -> dict[str, dict[str, Any]]:
    return {
        "tiny": {"d_model": tiny, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.3},
        "small": {"d_model": small, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.1},
        "base": {"d_model": base, "encoder_layers": 4, "decoder_layers": 4, "dropout": 0.1},
    }


# Wide enough for as many parameters as the Transformer's preset of the same name, at 8,000 tokens (37,000 for base).
PRESETS: dict[Cell, dict[str, dict[str, Any]]] = {
    "rnn": _presets(tiny=216, small=528, base=960),
    "gru": _presets(tiny=180, small=396, base=736),
    "lstm": _presets(tiny=164, small=352, base=656),
}


class RecurrentEncoder(nn.Module):
    """Reads the source from both ends, so that each state knows what comes before and after it."""

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.recurrence = Recurrence(
            config.cell,
            config.d_model,
            config.d_model // 2,
            config.encoder_layers,
            dropout=config.dropout,
            bidirectional=True,
        )

    def forward(
        self, x: Float[Tensor, "batch source d_model"], mask: Bool[Tensor, "batch source"] | None = None
    ) -> tuple[Float[Tensor, "batch source d_model"], Float[Tensor, "batch d_model"]]:
        """A state per source token, and the summary: the last state of either direction, all in one vector."""
        states, hidden = self.recurrence(x, mask=mask)
        return states, torch.cat([hidden[0][-2], hidden[0][-1]], dim=-1)


class RecurrentSeq2Seq(Seq2Seq):
    """A bidirectional encoder and a decoder of one of three kinds.

    >>> model = RecurrentSeq2Seq(RecurrentConfig(vocab_size=8_000, cell="lstm", attention="general"))
    >>> logits = model(source, target)          # (batch, target, vocab)
    """

    def __init__(self, config: RecurrentConfig):
        super().__init__()
        self.config = config
        # Between the layers of a stack the dropout is torch's own.
        self.divisible = config.dropout == 0.0 or config.encoder_layers == config.decoder_layers == 1
        source_tokens, target_tokens = make_embeddings(config)
        self.source_embedding = Embedding(source_tokens, "none", config.dropout)
        self.target_embedding = Embedding(target_tokens, "none", config.dropout)
        self.encoder = RecurrentEncoder(config)
        self.decoder = make_decoder(
            config.cell,
            config.attention,
            config.d_model,
            config.decoder_layers,
            dropout=config.dropout,
            input_feeding=config.input_feeding,
        )
        self.output = make_output(config, target_tokens)

    def encode(
        self,
        source: Int[Tensor, "batch source"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        record: AttentionRecord | None = None,
    ) -> RecurrentMemory:
        """See `Seq2Seq.encode`; there is no attention in a recurrent encoder."""
        states, summary = self.encoder(self.source_embedding(source), source_mask)
        return RecurrentMemory(states, source_mask, summary=summary)

    def start(self, memory: Memory) -> RecurrentState:
        """See `Seq2Seq.start`."""
        return self.decoder.start(cast(RecurrentMemory, memory))

    def decode(
        self,
        target: Int[Tensor, "rows target"],
        memory: Memory,
        cache: Cache | None = None,
        record: AttentionRecord | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """See `Seq2Seq.decode`. Training is a walk from the same start as a search, with the true tokens given."""
        recurrent_state = self.start(memory) if cache is None else cast(RecurrentState, cache)
        hidden: Tensor = self.decoder(
            self.target_embedding(target),
            cast(RecurrentMemory, memory),
            recurrent_state,
            None if record is None else record.cross,
        )
        recurrent_state.advance(target.shape[1])
        return hidden
