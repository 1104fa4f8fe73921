"""Cutting a word into pieces at random, so that a model does not know every word in one guise only.

SentencePiece can do so, too, but its random numbers differ from process to process, whatever the seed; here they come
from the caller, so that a training that goes on in another process sees what it would have seen.
"""

import math
from bisect import bisect
from collections.abc import Mapping
from functools import lru_cache
from itertools import accumulate
from random import Random

_WORDS_REMEMBERED = 1 << 16
_UNKNOWN_PENALTY = 10.0  # as SentencePiece has it: how much less an unknown character scores than any piece

_Ways = tuple[list[str], list[float]]
"""How the part of a word before some position may end: with one of these pieces, how likely with each (summed up)."""


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
        ways, end, cut = self._ways(word), len(word), []
        while end > 0:
            pieces, cumulative = ways[end]
            # What random.choices does, without its checks.
            piece = pieces[bisect(cumulative, generator.random() * cumulative[-1], 0, len(pieces) - 1)]
            cut.append(piece)
            end -= len(piece)
        return cut[::-1]

    def _ways_to_cut(self, word: str) -> list[_Ways]:
        """For each position of the word, the pieces that may end there."""
        ways: list[_Ways] = [([], [])]
        total = [0.0]  # log of the summed probability of all ways to cut the word's first 0, 1, … characters
        for end in range(1, len(word) + 1):
            pieces, logs = [], []
            for begin in range(max(0, end - self._longest), end):
                piece = word[begin:end]
                score = self._scores.get(piece, self._unknown if len(piece) == 1 else None)
                if score is not None:
                    pieces.append(piece)
                    logs.append(total[begin] + self._alpha * score)
            best = max(logs)
            cumulative = list(accumulate(math.exp(log - best) for log in logs))
            ways.append((pieces, cumulative))
            total.append(best + math.log(cumulative[-1]))
        return ways


class BpeSampler:
    """BPE-dropout (Provilkov et al. 2020, algorithm 1): the best merge is applied, out of those not dropped this time.

    Most words come out as without dropout, whose merges are remembered: one number drawn says how many of them in a
    row escape being dropped. Only from there on is the algorithm gone through.

    Args:
        scores: of every piece, the higher, the earlier it is merged.
        dropout: probability to drop a merge, each time it is possible. 0: the usual pieces; 1: characters.
    """

    def __init__(self, scores: Mapping[str, float], dropout: float) -> None:
        self._scores, self._dropout = scores, dropout
        self._log_kept = math.log1p(-dropout) if dropout < 1.0 else -math.inf
        self._usual = lru_cache(_WORDS_REMEMBERED)(self._usual_merges)

    def cut(self, word: str, generator: Random) -> list[str]:
        """The pieces of a word, drawn at random; a character that is no piece stands alone."""
        usual, merges = self._usual(word)
        # So many merges in a row are not dropped: n or more with the probability (1 − dropout)^n.
        escaped = math.log(1.0 - generator.random()) / self._log_kept if self._dropout > 0.0 else math.inf
        if escaped >= len(merges):
            return usual.copy()
        pieces = list(word)
        for where in merges[: int(escaped)]:
            _merge(pieces, where)
        where = self._best(pieces, generator, dropped=merges[int(escaped)])
        while where >= 0:
            _merge(pieces, where)
            where = self._best(pieces, generator)
        return pieces

    def _best(self, pieces: list[str], generator: Random | None, dropped: int = -1) -> int:
        """Where the best merge is, of those not dropped (of all, without a generator); −1: there is none."""
        best, best_at = -math.inf, -1
        for where in range(len(pieces) - 1):
            score = self._scores.get(pieces[where] + pieces[where + 1])
            if score is None or score <= best or where == dropped:
                continue
            if generator is None or generator.random() >= self._dropout:
                best, best_at = score, where
        return best_at

    def _usual_merges(self, word: str) -> tuple[list[str], list[int]]:
        """The pieces without dropout, and where one merge after another joins two."""
        pieces, merges = list(word), []
        while (where := self._best(pieces, None)) >= 0:
            merges.append(where)
            _merge(pieces, where)
        return pieces, merges


def _merge(pieces: list[str], where: int) -> None:
    pieces[where : where + 2] = [pieces[where] + pieces[where + 1]]
