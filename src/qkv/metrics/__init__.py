"""How good is the output? Every metric compares hypotheses with references and gives a `Score`, in percent.

Translation is scored by sacreBLEU, transcription (word → phones) has its error rates; see the two modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from qkv.metrics.contract import Metric, Score
from qkv.metrics.tokenization import choose
from qkv.registry import Registry
from qkv.text.corpus import group_references

__all__ = ["METRICS", "Metric", "Score", "Settings", "compute", "compute_for_pairs", "settle"]

METRICS: Registry[Metric] = Registry(
    "metric",
    {
        "bleu": "qkv.metrics.translation:BLEU",
        "chrf": "qkv.metrics.translation:CHRF",
        "ter": "qkv.metrics.translation:TER",
        "wer": "qkv.metrics.transcription:WER",
        "per": "qkv.metrics.transcription:PER",
        "cer": "qkv.metrics.transcription:CER",
        "residues": "qkv.metrics.transcription:RESIDUES",
        "exact_match": "qkv.metrics.transcription:EXACT_MATCH",
    },
)
"""The metrics by the name that recipes use."""

Settings = Mapping[str, Mapping[str, Any]]
"""Metric → setting → value."""


def settle(
    names: Sequence[str], pairs: Sequence[tuple[str, str]], bleu_tokenize: str | None = None
) -> tuple[Settings, list[str]]:
    """How metrics are to be computed for these pairs, whatever the outputs, and what a person should be told of that.

    `bleu_tokenize` is one of `qkv.metrics.tokenization.TOKENIZERS`, by default the one for the references' script.
    """
    blank = [number for number, (source, _) in enumerate(pairs, start=1) if not source.strip()]
    remarks = []
    if names and blank:
        remarks.append(
            f"{len(blank):,} of {len(pairs):,} sources are blank, the first in pair {blank[0]:,}: so is the output"
        )
    if "bleu" not in names or not pairs:
        return {}, remarks
    from qkv.metrics.translation import bleu_is_blind  # imports sacreBLEU

    references = [reference for _, reference in pairs]
    tokenize, remark = choose(bleu_tokenize, references)
    if remark is not None:
        remarks.append(remark)
    if bleu_is_blind(references, tokenize):
        remarks.append(
            f"bleu counts runs of 4 words, and none of {len(pairs):,} references has so many (words by {tokenize}): it "
            f"cannot tell outputs apart; {METRICS['bleu'].finer} can"
        )
    return {"bleu": {"tokenize": tokenize}}, remarks


def compute_for_pairs(
    names: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    output_of: Mapping[str, str],
    settings: Settings | None = None,
) -> dict[str, Score]:
    """Compute metrics for pairs of (source, reference), given one output for each different source.

    Metrics that are `by_source` take all pairs of one source as its references, and count the source once: a word has
    several pronunciations. BLEU, chrF and TER are defined line by line, so every pair counts there.
    A blank source's output is blank, and counts like any other. `settings` are those that `settle` has given.
    `UserError` if a name is not in `METRICS`, ValueError if there are no pairs.
    """
    lines = [source for source, _ in pairs], [[reference] for _, reference in pairs]
    scores: dict[str, Score] = {}
    for name in names:
        sources, references = group_references(pairs) if METRICS.find(name).by_source else lines
        scores |= compute([name], [output_of[source] for source in sources], references, sources, settings)
    return scores


def compute(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    sources: Sequence[str] | None = None,
    settings: Settings | None = None,
) -> dict[str, Score]:
    """Compute several metrics, each with its settings, as `Metric` does; `UserError` if a name is not in `METRICS`."""
    METRICS.check(*names)
    own = settings or {}
    return {
        name: replace(METRICS[name](hypotheses, references, sources, **own.get(name, {})), name=name) for name in names
    }
