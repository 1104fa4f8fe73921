"""The contract of an architecture: all that training, search, inspection and serving know of a model."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn


@dataclass
class Memory:
    """What the encoder hands to the decoder. An architecture may add tensors of its own, with the batch first.

    Attributes:
        states: one vector per source token.
        mask: True = a real token; None when no row is padded.
    """

    states: Float[Tensor, "batch source d_model"]
    mask: Bool[Tensor, "batch source"] | None = None

    def keep(self, sentences: Int[Tensor, " kept"]) -> "Memory":
        """The memory of some of the sentences, in the given order."""
        kept: dict[str, Any] = {}
        for part in fields(self):
            tensor = getattr(self, part.name)
            kept[part.name] = None if tensor is None else tensor[sentences]
        return type(self)(**kept)


class Cache(ABC):
    """What a decoder remembers between steps of a search.

    Its rows are batch × beam, the beams of a sentence adjacent.
    """

    @property
    @abstractmethod
    def length(self) -> int:
        """Number of target tokens decoded so far."""

    @abstractmethod
    def reorder(self, rows: Int[Tensor, " rows"]) -> None:
        """Beams move: row i continues what row `rows[i]` was.

        Rows stay within their sentence, of which there may be more than before: a beam begins one row wide.
        """

    @abstractmethod
    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """Finished sentences leave, with all their beams; the kept ones stay in the given order."""


class CountingCache(Cache):
    """A cache that counts its own tokens and sentences; an architecture adds what it remembers, and `reorder`.

    Attributes:
        rows: how many there are now, which is batch × beam.
    """

    def __init__(self, sentences: int):
        self.rows = self._sentences = sentences
        self._length = 0

    @property
    def length(self) -> int:
        """See `Cache.length`."""
        return self._length

    def advance(self, tokens: int) -> None:
        """So many more tokens have been decoded."""
        self._length += tokens

    def keep(self, sentences: Int[Tensor, " kept"]) -> None:
        """See `Cache.keep`."""
        self.reorder(beam_rows(sentences, beam=self.rows // self._sentences))
        self._sentences = len(sentences)


def beam_rows(sentences: Int[Tensor, " kept"], beam: int) -> Int[Tensor, " rows"]:
    """The rows of some sentences, of which each has `beam` adjacent ones."""
    return (sentences[:, None] * beam + torch.arange(beam, device=sentences.device)).flatten()


@dataclass
class AttentionRecord:
    """Attention weights of one pass, one tensor per layer, filled when handed to `encode` and `decode`.

    An architecture fills what it has: recurrent and convolutional models attend to the source alone, with one head.

    Attributes:
        encoder: source to source, (batch, head, source, source).
        decoder: target to target, (batch, head, target, target).
        cross: target to source, (batch, head, target, source).
    """

    encoder: list[Tensor] = field(default_factory=list)
    decoder: list[Tensor] = field(default_factory=list)
    cross: list[Tensor] = field(default_factory=list)


class Seq2Seq(nn.Module, ABC):
    """An encoder–decoder. An architecture writes `encode`, `start` and `decode`, and sets `output`.

    Attributes:
        output: from the decoder's hidden vectors to one logit per target token.
        longest: the most tokens that a source or target may have; None if there is no limit.
        divisible: whether a batch's rows may be computed apart, side by side, while training: no row
            depends on the others, and what is left to chance is left to `qkv.nn.dropout`. Not unless it says so.
    """

    output: nn.Linear
    longest: int | None = None
    divisible: bool = False

    @abstractmethod
    def encode(
        self,
        source: Int[Tensor, "batch source"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
        record: AttentionRecord | None = None,
    ) -> Memory:
        """Read the whole source once.

        Args:
            source: token ids, right-padded.
            source_mask: True = a real token; None when no row is padded.
            record: receives the attention weights if given.
        """

    @abstractmethod
    def start(self, memory: Memory) -> Cache:
        """An empty cache for a search; whatever depends on the memory alone is computed here, once."""

    @abstractmethod
    def decode(
        self,
        target: Int[Tensor, "rows target"],
        memory: Memory,
        cache: Cache | None = None,
        record: AttentionRecord | None = None,
    ) -> Float[Tensor, "rows target d_model"]:
        """Hidden vectors from which the token after each given one is predicted.

        Without a cache `target` is the whole (right-padded) target, as in training. With one it holds only
        the tokens that are new since the last call, and the cache moves on in place; rows may then be
        batch × beam for a memory of batch rows.
        """

    def project(self, hidden: Float[Tensor, "*rows d_model"]) -> Float[Tensor, "*rows vocab"]:
        """Logits over the target vocabulary; apart from `decode`, to project only what is needed."""
        return self.output(hidden)

    def forward(
        self,
        source: Int[Tensor, "batch source"],
        target: Int[Tensor, "batch target"],
        source_mask: Bool[Tensor, "batch source"] | None = None,
    ) -> Float[Tensor, "batch target vocab"]:
        """Logits for the token after each target token, given the true ones before it (teacher forcing)."""
        return self.project(self.decode(target, self.encode(source, source_mask)))
