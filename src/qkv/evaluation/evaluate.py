"""How well a run does on pairs it has not seen."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from qkv.metrics import METRICS, Score, compute_for_pairs
from qkv.text.corpus import Pair, PairFiles, read_pairs
from qkv.translator import Translator


@dataclass(frozen=True)
class Evaluation:
    """The outputs for some pairs and what they are worth.

    Attributes:
        scores: by the metric's name.
        pairs: source and reference, as they were read.
        outputs: the model's best output for each pair's source.
        remarks: what a person should be told of the files; see `read_pairs`.
    """

    scores: dict[str, Score]
    pairs: list[Pair]
    outputs: list[str]
    remarks: list[str] = field(default_factory=list)


def evaluate(
    translator: Translator,
    files: PairFiles,
    metrics: Sequence[str],
    *,
    beam: int | None = None,
    length_penalty: float | None = None,
    progress: bool = False,
) -> Evaluation:
    """Translate the sources of some pairs and compare with their targets; a source that repeats is translated once.

    Args:
        translator: a model and how it searches.
        files: where the pairs are.
        metrics: names from `qkv.metrics.METRICS`.
        beam: in place of the translator's; 1 is greedy.
        length_penalty: in place of the translator's.
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
    scores = compute_for_pairs(metrics, pairs, output_of)
    return Evaluation(scores, pairs, [output_of[pair.source] for pair in pairs], remarks)
