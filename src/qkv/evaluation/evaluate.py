"""How well a run does on pairs it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qkv.metrics import METRICS, Score, Settings, compute_for_pairs, settle
from qkv.text.corpus import Pair, PairFiles, read_pairs
from qkv.translator import Translator


@dataclass(frozen=True)
class Evaluation:
    """The outputs for some pairs and what they are worth.

    Attributes:
        scores: by the metric's name.
        pairs: source and reference, as they were read.
        outputs: the model's best output for each pair's source; a blank source's is blank.
        settings: how the metrics were computed.
        remarks: what a person should be told of that, and of the files; see `read_pairs`.
    """

    scores: dict[str, Score]
    pairs: list[Pair]
    outputs: list[str]
    settings: Settings = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)


def evaluate(
    translator: Translator,
    files: PairFiles,
    metrics: Sequence[str],
    *,
    beam: int | None = None,
    length_penalty: float | None = None,
    bleu_tokenize: str | None = None,
    progress: bool = False,
) -> Evaluation:
    """Translate the sources of some pairs and compare with their targets; a source that repeats is translated once.

    Args:
        translator: a model and how it searches.
        files: where the pairs are.
        metrics: names from `qkv.metrics.METRICS`.
        beam: in place of the translator's; 1 is greedy.
        length_penalty: in place of the translator's.
        bleu_tokenize: see `qkv.metrics.settle`.
        progress: show a progress bar on standard error.

    Raises:
        UserError: if the pairs cannot be read or a metric is unknown.
    """
    METRICS.check(*metrics)
    remarks: list[str] = []
    pairs = list(read_pairs(files, remarks.append))
    sources = list(dict.fromkeys(pair.source for pair in pairs))
    outputs = translator.translate(sources, beam=beam, length_penalty=length_penalty, progress=progress)
    output_of = dict(zip(sources, outputs, strict=True))
    settings, of_scores = settle(metrics, pairs, bleu_tokenize)
    scores = compute_for_pairs(metrics, pairs, output_of, settings)
    return Evaluation(scores, pairs, [output_of[pair.source] for pair in pairs], settings, [*remarks, *of_scores])
