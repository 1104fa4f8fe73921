"""Transcription, word → phones say, has its error rates. The best of several references counts.

Two communities call different things "word error rate":

- grapheme-to-phoneme: an entry is one word, right or wrong as a whole. This is `WER` here;
- speech recognition: edits between the words of two sentences. This is `PER`, which counts edits between the symbols
  that whitespace separates: phones in a pronunciation, words in a sentence.
"""

from collections.abc import Callable, Sequence

from rapidfuzz.distance import Levenshtein

from qkv.errors import UserError
from qkv.metrics.contract import Metric


def _exact_match(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    hits = sum(hypothesis in own for hypothesis, own in zip(hypotheses, references, strict=True))
    return 100 * hits / len(hypotheses)


def _word_error_rate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    hits = sum(said.split() in map(str.split, own) for said, own in zip(hypotheses, references, strict=True))
    return 100 * (len(hypotheses) - hits) / len(hypotheses)


def _phone_error_rate(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    return _edit_rate([line.split() for line in hypotheses], [[line.split() for line in own] for own in references])


def _edit_rate(hypotheses: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]) -> float:
    edits, length = _of_the_closest(_edits, hypotheses, references)
    if length == 0:
        raise UserError("all references are empty, so there is no error rate: check the target side of the data")
    return 100 * edits / length


def _edits(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    return Levenshtein.distance(hypothesis, reference), -len(reference)


def _exact_residues(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    wrong, length = _of_the_closest(_misplaced, hypotheses, references)
    if length == 0:
        raise UserError("all outputs and references are empty, so no share of them is right: check the data")
    return 100 * (1 - wrong / length)


def _misplaced(hypothesis: Sequence[str], reference: Sequence[str]) -> tuple[int, int]:
    length = max(len(hypothesis), len(reference))
    return length - sum(a == b for a, b in zip(hypothesis, reference, strict=False)), -length


def _of_the_closest(
    compare: Callable[[Sequence[str], Sequence[str]], tuple[int, int]],
    hypotheses: Sequence[Sequence[str]],
    references: Sequence[Sequence[Sequence[str]]],
) -> tuple[int, int]:
    """Errors and length over the corpus, by a function that gives errors and minus the length they are counted over."""
    # Of references equally close the longest counts, so that their order does not matter.
    closest = [min(compare(said, one) for one in own) for said, own in zip(hypotheses, references, strict=True)]
    return sum(errors for errors, _ in closest), -sum(minus_length for _, minus_length in closest)


WER = Metric("wer", _word_error_rate, higher_is_better=False, by_source=True, finer="cer")
"""The share of words whose transcription is none of the references, as in grapheme-to-phoneme work.

Symbols are compared, so the width of spaces does not count; but for that this is 100 − `EXACT_MATCH`."""

PER = Metric("per", _phone_error_rate, higher_is_better=False, by_source=True, finer="cer")
"""Edits between symbols separated by whitespace, per symbol of the closest reference, over the corpus.

It exceeds 100 when hypotheses are much too long. `UserError` if all references are empty."""

CER = Metric("cer", _edit_rate, higher_is_better=False, by_source=True)
"""As `PER`, with the characters as symbols, spaces included."""

RESIDUES = Metric("residues", _exact_residues, higher_is_better=True, by_source=True)
"""The share of characters, residues of a protein say, that are right where they stand, over the corpus.

The third character is held against the third and no other, so one that is left out makes all after it wrong (unless
they repeat); `CER` counts it once. Characters that one side lacks are wrong. Each hypothesis is held against the
reference with the fewest wrong characters. `UserError` if all hypotheses and references are empty."""

EXACT_MATCH = Metric("exact_match", _exact_match, higher_is_better=True, by_source=True, finer="cer")
"""The share of hypotheses that are, character for character, one of their references."""
