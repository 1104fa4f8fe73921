"""Two made-up languages whose word alignment is known by how their sentences are made."""

import random
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from qkv.inspection.alignment import Link


@dataclass(frozen=True)
class Phrase:
    """Words of both languages and the links between them, each side counted from its own start."""

    source: tuple[str, ...] = ()
    target: tuple[str, ...] = ()
    sure: frozenset[Link] = frozenset()
    possible: frozenset[Link] = frozenset()


def joined(phrases: Sequence[Phrase], target_order: Sequence[int]) -> Phrase:
    """Phrases in the source's order, those of the target in another."""
    sources = np.cumsum([0, *(len(phrase.source) for phrase in phrases)])
    ordered = [phrases[place] for place in target_order]
    ends = np.cumsum([0, *(len(phrase.target) for phrase in ordered)])
    targets = dict(zip(target_order, ends, strict=False))

    def moved(kind: str) -> frozenset[Link]:
        return frozenset(
            (int(sources[place]) + i, int(targets[place]) + j)
            for place, phrase in enumerate(phrases)
            for i, j in getattr(phrase, kind)
        )

    source = tuple(word for phrase in phrases for word in phrase.source)
    target = tuple(word for phrase in ordered for word in phrase.target)
    return Phrase(source, target, moved("sure"), moved("possible"))


class Language:
    """Subject, verb, object against subject, object, verb, with places and times that change sides.

    - A target adjective follows its noun. Next comes a case particle, which the source lacks: perhaps the noun's.
    - The source's article has no counterpart, nor has the word that ends a target sentence.
    - A third of the nouns and of the verbs are two words in the target, a third of the verbs two in the source.
    - A word may occur twice in a sentence, so that words alone do not tell which is meant.
    """

    def __init__(self, seed: int):
        self._random = random.Random(seed)
        self._nouns = [self._entry("n", number, 1, 2 if number % 3 == 0 else 1) for number in range(120)]
        self._adjectives = [self._entry("a", number, 1, 1) for number in range(60)]
        self._adverbs = [self._entry("t", number, 1, 1) for number in range(20)]
        sizes = [(1, 1), (1, 2), (2, 1)]
        self._verbs = [self._entry("v", number, *sizes[number % 3]) for number in range(60)]

    def sentence(self) -> Phrase:
        """One pair."""
        chance = self._random.random
        parts = [self._noun_phrase("wa"), self._random.choice(self._verbs), self._noun_phrase("wo")]
        order = [0, 2, 1]
        if chance() < 0.5:  # a place: after the object here, before it there
            parts.append(self._noun_phrase("ni"))
            order = [0, 3, 2, 1]
        if chance() < 0.5:  # a time: last here, first there
            parts.append(self._random.choice(self._adverbs))
            order = [len(parts) - 1, *order]
        parts.append(Phrase(target=("desu",)))
        return joined(parts, [*order, len(parts) - 1])

    def _entry(self, letter: str, number: int, source: int, target: int) -> Phrase:
        """A word of one language and its fixed counterpart; where a side has two, both are linked to the other's."""
        sides = [
            tuple(f"{mark}{letter}{number}{'xy'[i]}" for i in range(n)) for mark, n in (("", source), ("o", target))
        ]
        links = frozenset((i, j) for i in range(source) for j in range(target))
        return Phrase(*sides, links, links)

    def _noun_phrase(self, case: str) -> Phrase:
        noun = self._random.choice(self._nouns)
        before = [Phrase(source=("the",))] if self._random.random() < 0.7 else []
        before += self._random.choices(self._adjectives, k=self._random.choice((0, 0, 1, 2)))
        head = len(before)
        particle = Phrase(target=(case,))
        phrase = joined([*before, noun, particle], [head, *range(head), head + 1])
        marked = {(head, len(phrase.target) - 1)}
        return Phrase(phrase.source, phrase.target, phrase.sure, phrase.possible | marked)
