"""Which source word each target word comes from, read off cross-attention; and how far that is from the truth.

A target word is linked to the source word that a head gives most weight to: pieces of a source word add up, those of a
target word are averaged, and a word whose weight lies on the end of sentence stays without a link. Two steps may tell
of a token: the one that predicts it, and the next, which reads it ("shifted"; Chen et al. 2020).
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import product, starmap
from typing import Literal

import numpy as np

from qkv.errors import UserError
from qkv.inspection.attribution import attribution_scores
from qkv.inspection.forced import ModelOrRun, as_translator, record_pairs
from qkv.pages.escaping import in_html
from qkv.pages.heat_maps import HeatMap, fragment, grid
from qkv.text.tokenizer import SPACE
from qkv.text.tokenizer_settings import UNAMBIGUOUS
from qkv.translator import Translator

Link = tuple[int, int]
Unit = Literal["word", "token"]

_PAIRS_AT_ONCE = 500
_PAIRS_TO_SHOW = 20
_PAIRS_TO_CHOOSE_BY = 100  # occlusion takes a pass per source token


@dataclass(frozen=True)
class Gold:
    """What people have linked in one pair (Och and Ney 2003): `sure` is a part of `possible`."""

    sure: frozenset[Link]
    possible: frozenset[Link]


@dataclass(frozen=True)
class AlignmentHead:
    """A head of the cross-attention.

    Attributes:
        layer: counted from 1.
        head: counted from 1.
        shifted: whether a token's weights are those of the step that reads it, not of the one that predicts it.
    """

    layer: int
    head: int
    shifted: bool = False

    def __str__(self) -> str:
        step = "the step that reads a token" if self.shifted else "the step that predicts a token"
        return f"layer {self.layer}, head {self.head}, at {step}"


@dataclass(frozen=True)
class Alignments:
    """Links of some pairs. In a notebook the first twenty draw themselves.

    Attributes:
        sources: for each pair, the words (or tokens) of the source.
        targets: for each pair, those of the target.
        links: for each pair, (source, target), counted from 0.
        head: the head they come from.
        chosen_by: why this head: what was asked for, or the criterion with its value.
    """

    sources: list[list[str]]
    targets: list[list[str]]
    links: list[set[Link]]
    head: AlignmentHead
    chosen_by: str

    def _repr_html_(self) -> str:
        shown: list[HeatMap] = []
        for source, target, links in zip(self.sources[:_PAIRS_TO_SHOW], self.targets, self.links, strict=False):
            matrix = np.zeros((len(target), len(source)))
            for column, row in links:
                matrix[row, column] = 1.0
            shown.append(HeatMap(f"pair {len(shown) + 1}", matrix, target, source))
        caption = f"Links of {self.head} ({self.chosen_by}); {len(shown):,} of {len(self.links):,} pairs"
        return fragment([f"<p>{in_html(caption)}</p>", grid(shown)])


def align(
    model_or_run: ModelOrRun,
    pairs: Sequence[tuple[str, str]],
    *,
    head: AlignmentHead | None = None,
    gold: Sequence[Gold] | None = None,
    unit: Unit | None = None,
) -> Alignments:
    """Link the words of pairs by the cross-attention of one head.

    Args:
        model_or_run: a translator, a run or its directory.
        pairs: source and target texts; the model is led along the targets.
        head: by default the best: with `gold` the one with the lowest alignment error rate, without it the one whose
            links differ least from those of occlusion (see `attribute`) on the first 100 pairs.
        gold: what is right for each pair, or for as many as there are.
        unit: what links are between; by default words, but tokens if the tokenizer's kind is char or word.

    Raises:
        UserError: if the model has no cross-attention or no such head, there are no pairs or more gold alignments
            than pairs, or a text is too long for the model.
    """
    translator = as_translator(model_or_run)
    if not pairs:
        raise UserError("there are no pairs to align")
    chosen_by = "as asked for"
    if head is None:
        head, chosen_by = _best(translator, pairs, gold, unit)
    found = Alignments([], [], [], head, chosen_by)
    for first in range(0, len(pairs), _PAIRS_AT_ONCE):
        chunk = _Prepared.of(translator, pairs[first : first + _PAIRS_AT_ONCE], unit)
        found.links.extend(chunk.links(head))
        for (source, target), units in zip(chunk.pieces, chunk.units, strict=True):
            found.sources.append(words_of(source, units[0]))
            found.targets.append(words_of(target, units[1]))
    return found


def rank_heads(
    model_or_run: ModelOrRun,
    pairs: Sequence[tuple[str, str]],
    gold: Sequence[Gold],
    *,
    unit: Unit | None = None,
) -> list[tuple[AlignmentHead, float]]:
    """All heads, at both steps, with their alignment error rates, best first; see `align`. Each pair needs its gold."""
    if len(pairs) != len(gold) or not pairs:
        raise UserError(f"there are {len(gold)} gold alignments for {len(pairs)} pairs; each pair needs one")
    return _Prepared.of(as_translator(model_or_run), pairs, unit).ranking(gold)


def alignment_error_rate(found: Iterable[set[Link]], gold: Iterable[Gold]) -> float:
    """1 − (|A ∩ S| + |A ∩ P|) / (|A| + |S|) over all pairs (Och and Ney 2003): 0 if all is right, 1 if nothing is.

    Raises:
        ValueError: if there are not as many found as gold.
    """
    right = total = 0
    for links, truth in zip(found, gold, strict=True):
        right += len(links & truth.sure) + len(links & truth.possible)
        total += len(links) + len(truth.sure)
    return 1.0 - right / total if total else 0.0


def to_pharaoh(links: Iterable[Link]) -> str:
    """Pharaoh format: "0-0 1-2", source before target, counted from 0."""
    return " ".join(f"{source}-{target}" for source, target in sorted(links))


def read_pharaoh(lines: Iterable[str]) -> list[Gold]:
    """Gold alignments, one pair a line: 0-1 is sure, 0p1 or 0?1 possible.

    Raises:
        UserError: if a line holds something else.
    """
    gold = []
    for number, line in enumerate(lines, start=1):
        sure, possible = set(), set()
        for entry in line.split():
            link = re.fullmatch(r"(\d+)([-p?])(\d+)", entry)
            if link is None:
                raise UserError(f"alignments, line {number}: {entry!r} is no link; write 0-1 (sure) or 0p1 (possible)")
            possible.add((int(link[1]), int(link[3])))
            if link[2] == "-":
                sure.add((int(link[1]), int(link[3])))
        gold.append(Gold(frozenset(sure), frozenset(possible)))
    return gold


def units_of(pieces: Sequence[str], kind: str, unit: Unit | None = None) -> list[int]:
    """The word (or token) that each piece belongs to, counted from 0; no special pieces. For `unit` see `align`."""
    if kind == "word" or unit == "token" or (unit is None and kind in UNAMBIGUOUS):
        return list(range(len(pieces)))
    words, units, open_space = -1, [], False
    for piece in pieces:
        begins = piece.startswith(SPACE) or words < 0
        if begins and not (open_space and piece == SPACE):
            words += 1
        open_space = piece == SPACE
        units.append(words)
    return units


def words_of(pieces: Sequence[str], units: Sequence[int]) -> list[str]:
    """The text of each unit, as `units_of` tells them; a space that is a token of its own stays one."""
    words = [""] * (units[-1] + 1 if units else 0)
    for piece, unit in zip(pieces, units, strict=True):
        words[unit] += piece
    return [word.removeprefix(SPACE) or word for word in words]


def links_of(weights: np.ndarray, source_units: Sequence[int], target_units: Sequence[int]) -> set[Link]:
    """For each target unit the source unit with most weight, unless most lies beyond the source's units.

    Args:
        weights: (target piece, source piece), not below zero; the source's columns may be more than its units,
            which are then the end of sentence.
        source_units: the unit of each source piece.
        target_units: the unit of each target piece, as many as rows are to be used.
    """
    if not source_units or not target_units:
        return set()
    sums = np.zeros((weights.shape[0], source_units[-1] + 2))  # the last column: no word at all
    for column in range(weights.shape[1]):
        sums[:, source_units[column] if column < len(source_units) else -1] += weights[:, column]
    words = np.zeros((target_units[-1] + 1, sums.shape[1]))
    for row, word in enumerate(target_units):
        words[word] += sums[row]
    best = words.argmax(axis=1)
    return {(int(source), target) for target, source in enumerate(best) if source != sums.shape[1] - 1}


@dataclass(frozen=True)
class _Prepared:
    """Some pairs, led through the model."""

    translator: Translator
    ids: list[tuple[list[int], list[int]]]
    pieces: list[tuple[list[str], list[str]]]  # of source and target, without end of sentence
    units: list[tuple[list[int], list[int]]]  # of these
    weights: list[np.ndarray]  # (layer, head, target, source) of each pair

    @classmethod
    def of(cls, translator: Translator, pairs: Sequence[tuple[str, str]], unit: Unit | None) -> "_Prepared":
        source, target = translator.tokenizers.source, translator.tokenizers.target
        texts = ([text for text, _ in pairs], [text for _, text in pairs])
        ids = list(zip(translator.encode(texts[0], "source"), translator.encode(texts[1], "target"), strict=True))
        recorded = record_pairs(translator, ids, kinds=["cross"])
        if "cross" not in recorded[0].attention:
            raise UserError("this model has no cross-attention, so there is nothing to read alignments off")
        pieces = [(source.pieces(read[:-1]), target.pieces(led[:-1])) for read, led in ids]
        units = [(units_of(read, source.kind, unit), units_of(led, target.kind, unit)) for read, led in pieces]
        return cls(translator, ids, pieces, units, [one.attention["cross"] for one in recorded])

    def links(self, head: AlignmentHead) -> list[set[Link]]:
        layers, heads = self.weights[0].shape[:2]
        if not (1 <= head.layer <= layers and 1 <= head.head <= heads):
            raise UserError(f"no layer {head.layer}, head {head.head}: there are {layers} layers of {heads} heads")
        first = 1 if head.shifted else 0
        return [
            links_of(weights[head.layer - 1, head.head - 1, first:], *units)
            for weights, units in zip(self.weights, self.units, strict=True)
        ]

    def ranking(self, gold: Sequence[Gold]) -> list[tuple[AlignmentHead, float]]:
        layers, heads = (range(1, count + 1) for count in self.weights[0].shape[:2])
        candidates = starmap(AlignmentHead, product(layers, heads, (False, True)))
        rated = [(head, alignment_error_rate(self.links(head), gold)) for head in candidates]
        return sorted(rated, key=lambda one: one[1])

    def occlusion(self) -> list[Gold]:
        """The source word whose absence costs each target word most."""
        scores = (attribution_scores(self.translator, *ids, "occlusion").clip(min=0.0) for ids in self.ids)
        links = (frozenset(links_of(one, *units)) for one, units in zip(scores, self.units, strict=True))
        return [Gold(each, each) for each in links]


def _best(
    translator: Translator, pairs: Sequence[tuple[str, str]], gold: Sequence[Gold] | None, unit: Unit | None
) -> tuple[AlignmentHead, str]:
    if gold is not None:
        if not 0 < len(gold) <= len(pairs):
            raise UserError(f"there are {len(gold)} gold alignments for {len(pairs)} pairs")
        head, rate = rank_heads(translator, pairs[: len(gold)], gold, unit=unit)[0]
        return head, f"the lowest alignment error rate of all heads, {rate:.4f} on {len(gold):,} pairs"
    prepared = _Prepared.of(translator, pairs[:_PAIRS_TO_CHOOSE_BY], unit)
    head, rate = prepared.ranking(prepared.occlusion())[0]
    return head, f"its links differ least from those of occlusion, by {rate:.4f} on {len(prepared.ids):,} pairs"
