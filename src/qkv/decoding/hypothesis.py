"""What a search returns, and what it may be told."""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor


@dataclass(frozen=True)
class Hypothesis:
    """One output of a search.

    Attributes:
        tokens: ids without beginning and end of sentence.
        score: what hypotheses are ranked by: log_probability / length ** length_penalty.
        log_probability: natural log-probability of all tokens, the end of sentence included.
        finished: whether it ended by itself; False if the length limit cut it off.
    """

    tokens: list[int]
    score: float
    log_probability: float
    finished: bool


@dataclass(frozen=True)
class SearchOptions:
    """How to search. Lengths count the end of sentence.

    Attributes:
        beam: hypotheses followed at once; 1 is greedy search.
        length_penalty: exponent of the length that a log-probability is divided by. 0 ranks by the plain
            log-probability, which favours short outputs; 1 by the mean per token; more favours longer ones.
        max_length_ratio: longest output, as a multiple of the source's length, ...
        max_length_extra: ... plus this number of tokens.
        n_best: hypotheses returned for each sentence.

    Raises:
        ValueError: if a value is impossible, or n_best larger than the beam.
    """

    beam: int = 5
    length_penalty: float = 1.0
    max_length_ratio: float = 2.0
    max_length_extra: int = 10
    n_best: int = 1

    def __post_init__(self) -> None:
        for name in ("beam", "n_best"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        for name in ("length_penalty", "max_length_ratio", "max_length_extra"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} must be a number of at least 0, got {value}")
        if self.n_best > self.beam:
            raise ValueError(f"n_best ({self.n_best}) must not be larger than the beam ({self.beam})")

    def length_limits(self, source_lengths: Int[Tensor, " batch"], longest: int | None = None) -> Int[Tensor, " batch"]:
        """The longest output allowed for each source: at least one token, and never more than `longest`."""
        limits = (source_lengths * self.max_length_ratio).floor().to(torch.int64) + self.max_length_extra
        return limits.clamp(min=1, max=longest)

    def score(self, log_probability: float, length: int) -> float:
        """Rank of a hypothesis of the given length: the higher, the better (0 at best)."""
        return log_probability / length**self.length_penalty
