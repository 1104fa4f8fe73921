"""Transcription, word → phones say, has its error rates. The best of several references counts.

Two communities call different things "word error rate":

- grapheme-to-phoneme: an entry is one word, right or wrong as a whole. This is `WER` here;
- speech recognition: edits between the words of two sentences. This is `PER`, which counts edits between the symbols
  that whitespace separates: phones in a pronunciation, words in a sentence.
"""

from collections.abc import Iterable, Sequence

from rapidfuzz.distance import Levenshtein

from qkv.errors import UserError
from qkv.metrics.contract import Metric


def _exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    hits = sum(hypothesis in own for hypothesis, own in zip(hypotheses, references, strict=True))
    return 100 * hits / len(hypotheses)


def _word_error_rate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    errors = sum(
        all(hypothesis.split() != reference.split() for reference in own)
        for hypothesis, own in zip(hypotheses, references, strict=True)
    )
    return 100 * errors / len(hypotheses)


def _phone_error_rate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return _edit_rate(map(str.split, hypotheses), (map(str.split, own) for own in references))


def _edit_rate(hypotheses: Iterable[Sequence[str]], references: Iterable[Iterable[Sequence[str]]]) -> float:
    """Edits to the closest reference, over the length of those references, in percent."""
    edits = length = 0
    for hypothesis, own in zip(hypotheses, references, strict=True):
        # Of references equally close the longest counts, so that their order does not matter.
        distance, minus_length = min(
            (Levenshtein.distance(hypothesis, reference), -len(reference)) for reference in own
        )
        edits += distance
        length -= minus_length
    if length == 0:
        raise UserError("all references are empty, so there is no error rate: check the target side of the data")
    return 100 * edits / length


def _exact_residues(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    wrong = length = 0
    for hypothesis, own in zip(hypotheses, references, strict=True):
        # Of references equally close the longest counts, so that their order does not matter.
        misses, minus_length = min(_misplaced(hypothesis, reference) for reference in own)
        wrong += misses
        length -= minus_length
    if length == 0:
        raise UserError("all outputs and references are empty, so no share of them is right: check the data")
    return 100 * (1 - wrong / length)


def _misplaced(hypothesis: str, reference: str) -> tuple[int, int]:
    """How many positions of the longer string are wrong, and minus its length."""
    length = max(len(hypothesis), len(reference))
    return length - sum(a == b for a, b in zip(hypothesis, reference, strict=False)), -length


WER = Metric("wer", _word_error_rate, higher_is_better=False, by_source=True)
"""The share of words whose transcription is none of the references, as in grapheme-to-phoneme work.

Symbols are compared, so the width of spaces does not count; but for that this is 100 − `EXACT_MATCH`."""

PER = Metric("per", _phone_error_rate, higher_is_better=False, by_source=True)
"""Edits between symbols separated by whitespace, per symbol of the closest reference, over the corpus.

It exceeds 100 when hypotheses are much too long. `UserError` if all references are empty."""

CER = Metric("cer", _edit_rate, higher_is_better=False, by_source=True)
"""As `PER`, with the characters as symbols, spaces included."""

RESIDUES = Metric("residues", _exact_residues, higher_is_better=True, by_source=True)
"""The share of characters, residues of a protein say, that are right where they stand, over the corpus.

The third character is held against the third and no other, so one that is left out makes all after it wrong (unless
they repeat); `CER` counts it once. Characters that one side lacks are wrong. Each hypothesis is held against the
reference with the fewest wrong characters. `UserError` if all hypotheses and references are empty."""

EXACT_MATCH = Metric("exact_match", _exact_match, higher_is_better=True, by_source=True)
"""The share of hypotheses that are, character for character, one of their references."""
