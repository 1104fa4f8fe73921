"""What a beam search considered, kept and dropped, as a tree: for whoever asks why it found what it found."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from jaxtyping import Bool, Float, Int
from torch import Tensor

from qkv.decoding.options import SearchOptions

Fate = Literal["kept", "finished", "outranked", "abandoned"]
Reason = Literal["full", "hopeless", "limit"]


@dataclass(frozen=True)
class Candidate:
    """One extension of one hypothesis by one token, which a step of the search considered.

    Attributes:
        step: position of the token in the output, from 0.
        rank: among the candidates of its step by log-probability, from 0.
        parent: index in `BeamTree.candidates` of what it extends; None for the beginning of the sentence.
        token: the id that was appended.
        log_probability: natural log-probability of all tokens up to this one.
        score: what it would be ranked by if it ended here; see `SearchOptions.score`.
        fate: kept (extended further), finished (it ended among the best `beam`), outranked (others were more
            probable), or abandoned (it would have been kept, but the search was over).
    """

    step: int
    rank: int
    parent: int | None
    token: int
    log_probability: float
    score: float
    fate: Fate


@dataclass
class BeamTree:
    """The search for one sentence.

    Attributes:
        candidates: the best 2 × beam of each step, step by step, best first.
        reason: why the search was over: full (as many hypotheses ended as the beam is wide), hopeless (no live one
            could rank among the n best any more), or limit (of the length).
    """

    candidates: list[Candidate] = field(default_factory=list)
    reason: Reason | None = None
    _live: list[int | None] = field(default_factory=lambda: [None])

    def path(self, tokens: Sequence[int]) -> list[int]:
        """Indices of the candidates that spell an output, as far as the tree knows it."""
        children = {(candidate.parent, candidate.token): index for index, candidate in enumerate(self.candidates)}
        found: list[int] = []
        for token in tokens:
            index = children.get((found[-1] if found else None, token))
            if index is None:
                break
            found.append(index)
        return found


class BeamRecord:
    """Filled by `beam_search` when handed to it.

    Args:
        options: those of the search.

    Attributes:
        trees: one for each sentence of the batch, by its index.
    """

    def __init__(self, options: SearchOptions):
        self.trees: dict[int, BeamTree] = {}
        self._options = options

    def add(
        self,
        sentence: int,
        log_probabilities: Float[Tensor, " candidate"],
        parents: Int[Tensor, " candidate"],
        tokens: Int[Tensor, " candidate"],
        finished: Bool[Tensor, " best"],
        kept: Int[Tensor, " beam"],
    ) -> None:
        """Take in one step of one sentence.

        Args:
            sentence: its index in the batch.
            log_probabilities: of its candidates, best first; those of -inf are none.
            parents: the hypothesis that each extends, by its place in the beam before this step.
            tokens: what each is extended by.
            finished: for the best `beam` of them, whether they have ended.
            kept: ranks of those that live on, in the order of the beam after this step.
        """
        tree = self.trees.setdefault(sentence, BeamTree())
        before, step = tree._live, tree.candidates[-1].step + 1 if tree.candidates else 0
        ended, alive = finished.nonzero().flatten().tolist(), kept.tolist()
        places: dict[int, int] = {}
        rows = zip(log_probabilities.tolist(), parents.tolist(), tokens.tolist(), strict=True)
        for rank, (log_probability, parent, token) in enumerate(rows):
            if log_probability == float("-inf"):
                continue
            fate: Fate = "finished" if rank in ended else "kept" if rank in alive else "outranked"
            score = self._options.score(log_probability, step + 1)
            places[rank] = len(tree.candidates)
            tree.candidates.append(Candidate(step, rank, before[parent], token, log_probability, score, fate))
        # What has no probability has no place; nothing that the search keeps ever descends from it.
        tree._live = [places.get(rank) for rank in alive]

    def end(self, sentence: int, reason: Reason | None) -> None:
        """The search for a sentence is over: what was kept in the last step is abandoned."""
        tree = self.trees[sentence]
        tree.reason = reason
        for index in tree._live:
            if index is not None:
                tree.candidates[index] = replace(tree.candidates[index], fate="abandoned")
        tree._live = []
