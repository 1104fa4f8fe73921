"""Whether an engine computes what a model does: the same probabilities, and the same greedy outputs."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch

from qkv.decoding.engines.contract import Request
from qkv.decoding.hypothesis import Hypothesis
from qkv.decoding.options import SearchOptions
from qkv.errors import UserError
from qkv.text.tokenizer import Tokenizer, Tokenizers

_LENGTHS = (1, 2, 5, 9, 14, 20)
_GREEDY = SearchOptions(beam=1, max_length_ratio=1.0, max_length_extra=8)


@runtime_checkable
class Searcher(Protocol):
    """What can be compared: any `Engine`, or what only searches and scores as one does."""

    def search(self, request: Request) -> list[list[Hypothesis]]:
        """See `Engine.search`; what is searched for is the best output, greedily."""

    def score(self, sources: Sequence[Sequence[int]], targets: Sequence[Sequence[int]]) -> list[list[float]]:
        """See `Engine.score`."""


@dataclass(frozen=True)
class Agreement:
    """How near an engine was to another on a few made-up sources.

    Attributes:
        sources: how many.
        tokens: of the reference's greedy outputs, whose log-probabilities were compared.
        largest: distance between two log-probabilities of a token, in nats.
        same: how many greedy outputs are the same.
    """

    sources: int
    tokens: int
    largest: float
    same: int


def check(
    engine: Searcher,
    reference: Searcher,
    tokenizers: Tokenizers,
    tolerance: float,
    *,
    name: str,
    longest: int | None = None,
    outputs: bool = True,
) -> Agreement:
    """Refuse an engine that disagrees with another on a few made-up sources.

    Args:
        engine: what is checked.
        reference: what is right.
        tokenizers: of both sides.
        tolerance: mean distance allowed between log-probabilities of a token, in nats, beside the same share of them
            (but at most a hundredth).
        name: what is checked, for the message.
        longest: the most tokens that a source or output may have.
        outputs: whether greedy outputs must be the same, too. Where two part, their tokens must be as probable as each
            other, so close as `tolerance` says.

    Raises:
        UserError: if they differ by more.
    """

    def allowed(log_probability: float) -> float:
        return tolerance + min(tolerance, 0.01) * abs(log_probability)

    sources, eos = _made_up(tokenizers.source, longest), tokenizers.target.eos
    targets = _greedy(reference, sources, eos, longest)
    right, found = reference.score(sources, targets), engine.score(sources, targets)
    pairs = [pair for row, other in zip(right, found, strict=True) for pair in zip(row, other, strict=True)]
    distances = [abs(a - b) for a, b in pairs]
    if not sum(distances) <= sum(allowed(value) for value, _ in pairs):  # not a number is refused, too
        raise UserError(f"{name} disagrees with torch on this model ({sum(distances) / len(pairs):.3g} nats a token)")
    searched = _greedy(engine, sources, eos, longest)
    if outputs:
        again = reference.score(sources, searched)
        for target, output, row, other in zip(targets, searched, right, again, strict=True):
            at = next((i for i, (a, b) in enumerate(zip(target, output, strict=False)) if a != b), None)
            if at is not None and row[at] - other[at] > allowed(row[at]):
                raise UserError(f"{name}'s search disagrees with torch's on this model")
    same = sum(map(list.__eq__, targets, searched))
    return Agreement(len(sources), len(pairs), max(distances), same)


def _made_up(tokenizer: Tokenizer, longest: int | None) -> list[list[int]]:
    """A few sequences of ordinary tokens, the same each time, with their end of sentence."""
    generator = torch.Generator().manual_seed(0)
    special = {tokenizer.pad, tokenizer.bos, tokenizer.eos, tokenizer.unk}
    ordinary = torch.tensor([token for token in range(tokenizer.vocab_size) if token not in special])
    lengths = [length if longest is None else min(length, longest - 1) for length in _LENGTHS]
    drawn = [torch.randint(len(ordinary), (length,), generator=generator) for length in lengths]
    return [[*ordinary[chosen].tolist(), tokenizer.eos] for chosen in drawn]


def _greedy(engine: Searcher, sources: list[list[int]], eos: int, longest: int | None) -> list[list[int]]:
    """Outputs with their end of sentence, which is put even to what was cut off: without it nothing is scored."""
    kept = None if longest is None else longest - 1
    # With a shortlist, what may be found depends on what is searched beside it.
    batches = [sources] if getattr(engine, "shortlist", None) is None else [[source] for source in sources]
    found = [best for batch in batches for [best] in engine.search(Request(batch, _GREEDY))]
    return [[*best.tokens[:kept], eos] for best in found]
