"""Translation is scored by sacreBLEU (Post 2018, "A Call for Clarity in Reporting BLEU Scores").

Always with its signature, because a BLEU without one cannot be compared.
"""

from collections.abc import Sequence

from sacrebleu.metrics.base import Metric as SacreMetric
from sacrebleu.metrics.bleu import BLEU as SacreBleu
from sacrebleu.metrics.chrf import CHRF as SacreChrf
from sacrebleu.metrics.ter import TER as SacreTer

from qkv.metrics.contract import Metric


def _bleu(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, tokenize: str = "13a", lowercase: bool = False
) -> tuple[float, str]:
    # force only silences the warning about tokenised text, which "none" asks for.
    metric = SacreBleu(tokenize=tokenize, lowercase=lowercase, force=tokenize == "none")
    return _scored(metric, hypotheses, references)


def _chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
    return _scored(SacreChrf(), hypotheses, references)


def _ter(hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
    return _scored(SacreTer(), hypotheses, references)


def _scored(metric: SacreMetric, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> tuple[float, str]:
    # sacreBLEU wants all first references, then all second ones, …: None where a source has fewer.
    most = max(map(len, references))
    streams = [[own[i] if i < len(own) else None for own in references] for i in range(most)]
    value = metric.corpus_score(hypotheses, streams).score  # type: ignore[arg-type]  # it does take None
    return value, str(metric.get_signature())


BLEU = Metric("bleu", _bleu, higher_is_better=True)
"""BLEU (Papineni et al. 2002) over the corpus, on detokenised text.

Settings: `tokenize` names sacreBLEU's tokenizer ("none" scores text that is tokenised already, as older papers do);
`lowercase` ignores case."""

CHRF = Metric("chrf", _chrf, higher_is_better=True)
"""chrF2 (Popović 2015) over the corpus: F-score of character n-grams, on detokenised text."""

TER = Metric("ter", _ter, higher_is_better=False)
"""TER (Snover et al. 2006) over the corpus: edits, shifts included, per word of the references."""
