"""What a metric is, and what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Score:
    """The value of one metric, and all that is needed to compare it with another."""

    name: str
    value: float
    signature: str | None
    """sacreBLEU's account of how the value was computed; None for metrics that leave nothing to choose."""
    higher_is_better: bool

    def __str__(self) -> str:
        signature = f"  ({self.signature})" if self.signature else ""
        return f"{self.name} {self.value:.2f}{signature}"


@dataclass(frozen=True)
class Metric:
    """A way to judge outputs; call it with hypotheses and, for each, the list of all its references.

    Attributes:
        name: which its scores carry.
        function: from hypotheses and references, and the sources if it wants them, to a value, or to a value and a
            signature; nothing it is given is empty, and all have one length.
        higher_is_better: whether a larger value is a better one.
        by_source: whether several pairs of one source are alternatives, as pronunciations of a word are; if not, every
            pair counts.
        wants_sources: whether the function takes a third argument, the sources.
        finer: what may still tell models apart where this one stands still: another metric, or the loss.
    """

    name: str
    function: Callable[..., float | tuple[float, str]]
    higher_is_better: bool
    by_source: bool = False
    wants_sources: bool = False
    finer: str = "loss"

    def __call__(
        self,
        hypotheses: Sequence[str],
        references: Sequence[Sequence[str]],
        sources: Sequence[str] | None = None,
        **settings: Any,
    ) -> Score:
        """The score. `settings` are the function's own; `sources` are needed if it wants them.

        ValueError if there is nothing to score, or references or sources do not match the hypotheses.
        """
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses but references for {len(references)} sources")
        if not hypotheses:
            raise ValueError("there is nothing to score: no hypotheses")
        for i, own in enumerate(references):
            if isinstance(own, str) or len(own) == 0:
                raise ValueError(f"source {i} needs a list of one or more references, not {own!r}")
        given = [hypotheses, references]
        if self.wants_sources:
            if sources is None or len(sources) != len(hypotheses):
                raise ValueError(f"{self.name} needs the source of each of {len(hypotheses)} hypotheses")
            given.append(sources)
        found = self.function(*given, **settings)
        value, signature = found if isinstance(found, tuple) else (found, None)
        return Score(self.name, value, signature, self.higher_is_better)
