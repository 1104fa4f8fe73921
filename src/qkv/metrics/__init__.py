"""How good is the output? Every metric compares hypotheses with references and gives a `Score`, in percent.

Translation is scored by sacreBLEU, transcription (word → phones) has its error rates; see the two modules.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from qkv.metrics.contract import Metric, Score
from qkv.registry import Registry
from qkv.text.corpus import group_references

__all__ = ["METRICS", "Metric", "Score", "compute", "compute_for_pairs"]

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


def compute_for_pairs(
    names: Sequence[str], pairs: Sequence[tuple[str, str]], output_of: Mapping[str, str]
) -> dict[str, Score]:
    """Compute metrics for pairs of (source, reference), given one output for each different source.

    Metrics that are `by_source` take all pairs of one source as its references, and count the source once: a word has
    several pronunciations. BLEU, chrF and TER are defined line by line, so every pair counts there.
    `UserError` if a name is not in `METRICS`, ValueError if there are no pairs.
    """
    lines = [source for source, _ in pairs], [[reference] for _, reference in pairs]
    scores: dict[str, Score] = {}
    for name in names:
        sources, references = group_references(pairs) if METRICS.find(name).by_source else lines
        scores |= compute([name], [output_of[source] for source in sources], references, sources)
    return scores


def compute(
    names: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    sources: Sequence[str] | None = None,
) -> dict[str, Score]:
    """Compute several metrics with default settings, as `Metric` does; `UserError` if a name is not in `METRICS`."""
    METRICS.check(*names)
    return {name: replace(METRICS[name](hypotheses, references, sources), name=name) for name in names}
