"""Cutting a word into pieces at random, so that a model does not know every word in one guise only.

SentencePiece can do so, too, but its random numbers differ from process to process, whatever the seed; here they come
from the caller, so that a training that goes on in another process sees what it would have seen.
"""

import math
from collections.abc import Mapping
from functools import lru_cache
from random import Random
from typing import NamedTuple

_WORDS_REMEMBERED = 1 << 16
_UNKNOWN_PENALTY = 10.0  # as SentencePiece has it: how much less an unknown character scores than any piece


class _Ways(NamedTuple):
    """How the part of a word before some position may end: with one of these pieces, and how likely with each."""

    pieces: list[str]
    cumulative: list[float]


class UnigramSampler:
    """Subword regularisation (Kudo 2018, section 3): each way to cut a word has a probability ∝ P(pieces)^alpha.

    All ways take part, not only the best few: probabilities are summed up from the front of the word, and pieces are
    then drawn from its back.

    Args:
        scores: log-probability of every piece.
        alpha: 0: all ways are alike; 1: as probable as the model has them.
    """

    def __init__(self, scores: Mapping[str, float], alpha: float) -> None:
        self._scores, self._alpha = scores, alpha
        self._longest = max(map(len, scores))
        self._unknown = min(scores.values()) - _UNKNOWN_PENALTY
        self._ways = lru_cache(_WORDS_REMEMBERED)(self._ways_to_cut)

    def cut(self, word: str, generator: Random) -> list[str]:
        """The pieces of a word, drawn at random; a character that is no piece stands alone."""
        ways, end, pieces = self._ways(word), len(word), []
        while end > 0:
            candidates = ways[end]
            [piece] = generator.choices(candidates.pieces, cum_weights=candidates.cumulative)
            pieces.append(piece)
            end -= len(piece)
        return pieces[::-1]

    def _ways_to_cut(self, word: str) -> list[_Ways]:
        """For each position of the word, the pieces that may end there."""
        ways = [_Ways([], [])]
        total = [0.0]  # log of the summed probability of all ways to cut the word's first 0, 1, … characters
        for end in range(1, len(word) + 1):
            pieces, logs = [], []
            for begin in range(max(0, end - self._longest), end):
                piece = word[begin:end]
                score = self._scores.get(piece, self._unknown if len(piece) == 1 else None)
                if score is not None:
                    pieces.append(piece)
                    logs.append(total[begin] + self._alpha * score)
            best, cumulative = max(logs), [0.0]
            for log in logs:
                cumulative.append(cumulative[-1] + math.exp(log - best))
            ways.append(_Ways(pieces, cumulative[1:]))
            total.append(best + math.log(cumulative[-1]))
        return ways


class BpeSampler:
    """BPE-dropout (Provilkov et al. 2020, algorithm 1): the best merge is applied, out of those not dropped this time.

    Args:
        scores: of every piece, the higher, the earlier it is merged.
        dropout: probability to drop a merge, each time it is possible. 0: the usual pieces; 1: characters.
    """

    def __init__(self, scores: Mapping[str, float], dropout: float) -> None:
        self._scores, self._dropout = scores, dropout

    def cut(self, word: str, generator: Random) -> list[str]:
        """The pieces of a word, drawn at random; a character that is no piece stands alone."""
        pieces = list(word)
        while True:
            best, where = -math.inf, -1
            for index in range(len(pieces) - 1):
                score = self._scores.get(pieces[index] + pieces[index + 1])
                if score is not None and score > best and generator.random() >= self._dropout:
                    best, where = score, index
            if where < 0:
                return pieces
            pieces[where : where + 2] = [pieces[where] + pieces[where + 1]]
