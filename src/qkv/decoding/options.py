"""What a search may be told."""

import sys
from collections.abc import Iterable

from pydantic import Field, model_validator

from qkv.settings import Section


class SearchDefaults(Section):
    """How to search, as far as a recipe says so. Lengths count the end of sentence."""

    beam: int = Field(5, ge=1, description="hypotheses carried along; 1: greedy")
    length_penalty: float = Field(1.0, ge=0, description="score = log-probability / length^penalty")
    max_length_ratio: float = Field(2.0, ge=0, description="longest output: ratio × source length + extra")
    max_length_extra: int = Field(10, ge=0, description="see max_length_ratio")


class SearchOptions(SearchDefaults):
    """How to search.

    A length penalty of 0 ranks by the plain log-probability, which favours short outputs; 1 by the mean per token; more
    favours longer ones.

    Raises:
        UserError: if a value is impossible, or n_best larger than the beam.
    """

    n_best: int = Field(1, ge=1, description="hypotheses returned for each sentence")

    @model_validator(mode="after")
    def _as_many_as_there_are(self) -> "SearchOptions":
        if self.n_best > self.beam:
            raise ValueError(f"n_best ({self.n_best}) must not be larger than the beam ({self.beam})")
        return self

    def widened(self) -> "SearchOptions":
        """The same search, of which, if more than one is wanted, all outputs in the beam are returned."""
        return self if self.n_best == 1 else self.changed(n_best=self.beam)

    def length_limits(self, source_lengths: Iterable[int], longest: int | None = None) -> list[int]:
        """The longest output allowed for each source: at least one token, and never more than `longest`."""
        most = sys.maxsize if longest is None else longest
        # The ratio is cut first: a huge one times a length is no integer any more.
        ratio = min(self.max_length_ratio, 1e9)
        return [min(max(1, int(length * ratio) + self.max_length_extra), most) for length in source_lengths]

    def score(self, log_probability: float, length: int) -> float:
        """Rank of a hypothesis of the given length: the higher, the better (0 at best)."""
        return log_probability / length**self.length_penalty
