"""Translation is scored by sacreBLEU (Post 2018, "A Call for Clarity in Reporting BLEU Scores").

Always with its signature, because a BLEU without one cannot be compared.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from sacrebleu.metrics.base import Metric as SacreMetric
from sacrebleu.metrics.bleu import BLEU as SacreBleu
from sacrebleu.metrics.chrf import CHRF as SacreChrf
from sacrebleu.metrics.ter import TER as SacreTer

from qkv.metrics.contract import Metric
from qkv.metrics.tokenization import choose

_BLEU_ORDER = 4


def _bleu(
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    tokenize: str | None = None,
    lowercase: bool = False,
) -> tuple[float, str]:
    tokenize = tokenize or choose(None, chain.from_iterable(references))[0]
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


def bleu_is_blind(references: Iterable[str], tokenize: str) -> bool:
    """Whether no reference has as many words as the longest runs that BLEU counts: then right outputs come to 0."""
    words = SacreBleu(tokenize=tokenize, force=True).tokenizer
    return not any(len(words(line).split()) >= _BLEU_ORDER for line in references)


BLEU = Metric("bleu", _bleu, higher_is_better=True, finer="chrf")
"""BLEU (Papineni et al. 2002) over the corpus, on detokenised text.

Settings: `tokenize` names sacreBLEU's tokenizer ("none" scores text that is tokenised already, as older papers do), by
default the one for the script of the references; `lowercase` ignores case."""

CHRF = Metric("chrf", _chrf, higher_is_better=True)
"""chrF2 (Popović 2015) over the corpus: F-score of character n-grams, on detokenised text."""

TER = Metric("ter", _ter, higher_is_better=False, finer="chrf")
"""TER (Snover et al. 2006) over the corpus: edits, shifts included, per word of the references."""
