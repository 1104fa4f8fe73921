"""How good is the output? Every metric compares hypotheses with references and returns a `Score`.

Translation is scored by sacreBLEU (Post 2018, "A Call for Clarity in Reporting BLEU Scores"), always with its
signature, because a BLEU without one cannot be compared. Transcription (word → phones) has its error rates.

Two communities call different things "word error rate":

- grapheme-to-phoneme: an entry is one word, right or wrong as a whole. This is `word_error_rate` here;
- speech recognition: edits between the words of two sentences. This is `phone_error_rate`, which counts edits
  between the symbols that whitespace separates: phones in a pronunciation, words in a sentence.

All functions take `hypotheses`, one for each source, and `references`, for each source the list of all its
references (pronunciations of a word, translations of a sentence): the best one counts. Values are in percent.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from typing import TYPE_CHECKING

from rapidfuzz.distance import Levenshtein

from qkv.errors import UserError
from qkv.text.corpus import group_references

if TYPE_CHECKING:
    from sacrebleu.metrics.base import Metric as SacreMetric

BY_SOURCE = ("wer", "per", "cer", "residues", "exact_match")
"""Metrics for which several pairs of one source are alternatives."""

Metric = Callable[[list[str], list[list[str]]], "Score"]


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


def compute_for_pairs(
    names: Sequence[str], pairs: Sequence[tuple[str, str]], output_of: Mapping[str, str]
) -> dict[str, Score]:
    """Compute metrics for pairs of (source, reference), given one output for each different source.

    Transcription metrics take all pairs of one source as its references, and count the source once: a word has
    several pronunciations. BLEU, chrF and TER are defined line by line, so every pair counts there.

    Raises:
        UserError: a name is not in `METRICS`.
        ValueError: there are no pairs.
    """
    sources, references = group_references(pairs)
    grouped = [name for name in names if name in BY_SOURCE]
    by_line = [name for name in names if name not in BY_SOURCE]
    scores: dict[str, Score] = {}
    if grouped:
        scores |= compute(grouped, [output_of[source] for source in sources], references)
    if by_line:
        outputs = [output_of[source] for source, _ in pairs]
        scores |= compute(by_line, outputs, [[reference] for _, reference in pairs])
    return {name: scores[name] for name in names}


def check_names(names: Sequence[str]) -> None:
    """Refuse an unknown metric, before hours are spent on what is to be measured.

    Raises:
        UserError: a name is not in `METRICS`.
    """
    for name in names:
        if name not in METRICS:
            near = get_close_matches(name.lower(), METRICS, n=1, cutoff=0.5)
            hint = f"did you mean {near[0]!r}? " if near else ""
            raise UserError(f"unknown metric {name!r}: {hint}There are: {', '.join(METRICS)}")


def compute(names: Sequence[str], hypotheses: list[str], references: list[list[str]]) -> dict[str, Score]:
    """Compute several metrics with their default settings.

    Raises:
        UserError: a name is not in `METRICS`.
        ValueError: there is nothing to score, or the references do not match the hypotheses.
    """
    check_names(names)
    return {name: METRICS[name][0](hypotheses, references) for name in names}


def corpus_bleu(
    hypotheses: list[str], references: list[list[str]], *, tokenize: str = "13a", lowercase: bool = False
) -> Score:
    """BLEU (Papineni et al. 2002) over the corpus.

    Args:
        hypotheses: detokenised text, unless `tokenize` is "none".
        references: for each hypothesis, all its references.
        tokenize: sacreBLEU's tokenizer; "none" scores text that is tokenised already, as older papers do.
        lowercase: ignore case.
    """
    from sacrebleu.metrics.bleu import BLEU

    # force only silences the warning about tokenised text, which "none" asks for.
    metric = BLEU(tokenize=tokenize, lowercase=lowercase, force=tokenize == "none")
    return _sacre_score("bleu", metric, hypotheses, references)


def corpus_chrf(hypotheses: list[str], references: list[list[str]]) -> Score:
    """chrF2 (Popović 2015) over the corpus: F-score of character n-grams, on detokenised text."""
    from sacrebleu.metrics.chrf import CHRF

    return _sacre_score("chrf", CHRF(), hypotheses, references)


def corpus_ter(hypotheses: list[str], references: list[list[str]]) -> Score:
    """TER (Snover et al. 2006) over the corpus: edits, shifts included, per word of the references."""
    from sacrebleu.metrics.ter import TER

    return _sacre_score("ter", TER(), hypotheses, references)


def exact_match(hypotheses: list[str], references: list[list[str]]) -> Score:
    """The share of hypotheses that are, character for character, one of their references."""
    _check(hypotheses, references)
    hits = sum(hypothesis in own for hypothesis, own in zip(hypotheses, references, strict=True))
    return _score("exact_match", 100 * hits / len(hypotheses))


def word_error_rate(hypotheses: list[str], references: list[list[str]]) -> Score:
    """WER as in grapheme-to-phoneme work: the share of words whose transcription is none of the references.

    Symbols are compared, so the width of spaces does not count; but for that this is 100 − `exact_match`.
    For speech recognition's WER, edits between the words of sentences, use `phone_error_rate`.
    """
    _check(hypotheses, references)
    errors = sum(
        all(hypothesis.split() != reference.split() for reference in own)
        for hypothesis, own in zip(hypotheses, references, strict=True)
    )
    return _score("wer", 100 * errors / len(hypotheses))


def phone_error_rate(hypotheses: list[str], references: list[list[str]]) -> Score:
    """PER: edits between symbols separated by whitespace, per reference symbol, over the corpus.

    Each hypothesis is held against its closest reference. On sentences, whose symbols are words, this is
    speech recognition's WER. It exceeds 100 when hypotheses are much too long.

    Raises:
        UserError: all references are empty.
    """
    _check(hypotheses, references)
    return _score("per", _edit_rate(map(str.split, hypotheses), (map(str.split, own) for own in references)))


def character_error_rate(hypotheses: list[str], references: list[list[str]]) -> Score:
    """CER: as `phone_error_rate`, with the characters as symbols, spaces included."""
    _check(hypotheses, references)
    return _score("cer", _edit_rate(hypotheses, references))


def exact_residues(hypotheses: list[str], references: list[list[str]]) -> Score:
    """The share of characters, residues of a protein say, that are right where they stand, over the corpus.

    The third character is held against the third and no other, so one that is left out makes all after it wrong
    (unless they repeat); `character_error_rate` counts it once. Characters that one side lacks are wrong. Each
    hypothesis is held against the reference with the fewest wrong characters.

    Raises:
        UserError: all hypotheses and references are empty.
    """
    _check(hypotheses, references)
    wrong = length = 0
    for hypothesis, own in zip(hypotheses, references, strict=True):
        # Of references equally close the longest counts, so that their order does not matter.
        misses, minus_length = min(_misplaced(hypothesis, reference) for reference in own)
        wrong += misses
        length -= minus_length
    if length == 0:
        raise UserError("all outputs and references are empty, so no share of them is right: check the data")
    return _score("residues", 100 * (1 - wrong / length))


def _misplaced(hypothesis: str, reference: str) -> tuple[int, int]:
    """How many positions of the longer string are wrong, and minus its length."""
    length = max(len(hypothesis), len(reference))
    return length - sum(a == b for a, b in zip(hypothesis, reference, strict=False)), -length


METRICS: dict[str, tuple[Metric, bool]] = {
    "bleu": (corpus_bleu, True),
    "chrf": (corpus_chrf, True),
    "ter": (corpus_ter, False),
    "wer": (word_error_rate, False),
    "per": (phone_error_rate, False),
    "cer": (character_error_rate, False),
    "residues": (exact_residues, True),
    "exact_match": (exact_match, True),
}
"""The metrics by the name that recipes use: the function, and whether higher is better."""


def _score(name: str, value: float, signature: str | None = None) -> Score:
    return Score(name, value, signature, higher_is_better=METRICS[name][1])


def _sacre_score(name: str, metric: "SacreMetric", hypotheses: list[str], references: list[list[str]]) -> Score:
    _check(hypotheses, references)
    # sacreBLEU wants all first references, then all second ones, …: None where a source has fewer.
    most = max(map(len, references))
    streams = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    value = metric.corpus_score(hypotheses, streams).score  # type: ignore[arg-type]  # it does take None
    return _score(name, value, str(metric.get_signature()))


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


def _check(hypotheses: list[str], references: list[list[str]]) -> None:
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses but references for {len(references)} sources")
    if not hypotheses:
        raise ValueError("there is nothing to score: no hypotheses")
    for i, own in enumerate(references):
        if isinstance(own, str) or len(own) == 0:
            raise ValueError(f"source {i} needs a list of one or more references, not {own!r}")
