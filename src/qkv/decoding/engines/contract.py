"""What searches and scores in place of torch: the contract of an engine."""

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

from qkv.decoding.hypothesis import Hypothesis, SearchOptions


@runtime_checkable
class Engine(Protocol):
    """A model compiled for decoding; its outputs agree with the model's own."""

    def search(
        self,
        sources: Sequence[Sequence[int]],
        options: SearchOptions,
        *,
        batch_tokens: int,
        on_progress: Callable[[int], None] | None = None,
    ) -> list[list[Hypothesis]]:
        """The best outputs of each source; see `qkv.decoding.sentences.search_all`."""

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """Natural log-probability of each token of each target; sources and targets end with eos."""
