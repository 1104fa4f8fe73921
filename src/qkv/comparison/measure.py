"""What is measured of one trained run: size, learning curve, scores, speed, a few outputs."""

import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qkv.comparison.results import (
    Environment,
    Example,
    LengthBucket,
    Measurement,
    TrainingPoint,
    ValidationPoint,
    now,
)
from qkv.config.schema import Config
from qkv.devices import autocast
from qkv.evaluation.evaluate import evaluate
from qkv.measuring.speed import LENGTHS, decoding_speed, times_by_length
from qkv.metrics.metrics import compute_for_pairs
from qkv.run.checkpoint import TrainingState, read_state
from qkv.run.directory import Run
from qkv.run.preparation import pair_files
from qkv.text.corpus import Pair
from qkv.translator import load

_EXAMPLES = 5
_BUCKET_WIDTH = 10
_PAIRS_PER_BUCKET = 20


def scored_pairs(config: Config) -> str:
    """Which pairs the scores are of: `test`, or `validation` where the recipe has no test pairs."""
    return "validation" if config.data.test is None else "test"


def measure(config: Config, metrics: Sequence[str], beam: int | None, *, progress: bool = False) -> Measurement:
    """Measure a trained run; nothing in it is changed.

    Args:
        config: the variant's; `config.run` is the run.
        metrics: names from `qkv.metrics.metrics.METRICS`.
        beam: in place of the recipe's `decoding.beam`.
        progress: show a progress bar while the test pairs are decoded.

    Raises:
        UserError: if the run or the pairs cannot be read.
    """
    run = Run.open(config.run)
    translator = load(run.path, device=config.device)
    beam = config.decoding.beam if beam is None else beam
    name = scored_pairs(config)
    evaluation = evaluate(translator, pair_files(config, name), metrics, beam=beam, progress=progress)
    output_of = dict(zip((pair.source for pair in evaluation.pairs), evaluation.outputs, strict=True))
    speed = decoding_speed(translator, list(output_of), beam)
    unit = length_unit(list(output_of))
    model, tokenizers = translator.model, translator.tokenizers
    return Measurement(
        architecture=config.model.architecture,
        parameters=sum(parameter.numel() for parameter in model.parameters()),
        **how_it_learnt(run),
        validation_metric=config.validation.metric,
        pairs_name=name,
        pairs=len(evaluation.pairs),
        beam=beam,
        scores=list(evaluation.scores.values()),
        length_unit=unit,
        by_length=quality_by_length(evaluation.pairs, output_of, metrics[0], unit),
        decoding=speed,
        times=times_by_length(
            model,
            tokenizers.source.vocab_size,
            tokenizers.target.vocab_size,
            lengths=LENGTHS,
            autocast=lambda: autocast(translator.device, config.training.precision),
        ),
        examples=choose_examples(evaluation.pairs, output_of),
        environment=Environment.here(str(translator.device)),
        date=now(),
    )


# Learning


def how_it_learnt(run: Run) -> dict[str, Any]:
    """The fields of a measurement that tell how training went, from metrics.jsonl and the newest checkpoint."""
    state = read_state(run.checkpoints()[-1])
    records = run.metrics()
    reports = [record for record in records if record["event"] == "train"]
    speeds = [record["tokens_per_second"] for record in reports]
    return {
        "steps": state.step,
        "target_tokens": state.target_tokens,
        "minutes": max([state.seconds, *(record["seconds"] for record in records)]) / 60,
        "tokens_per_second": statistics.median(speeds) if speeds else None,
        "training": [
            TrainingPoint(record["step"], record["seconds"], record["target_tokens"], record["nll"])
            for record in reports
        ],
        "validation": _validations(run, records, reports, state),
    }


def _validations(
    run: Run, records: Sequence[Mapping[str, Any]], reports: Sequence[Mapping[str, Any]], state: TrainingState
) -> list[ValidationPoint]:
    """A validation's record counts no tokens, so they are read off between the reports before and after it."""
    known = {0: 0, state.step: state.target_tokens} | {report["step"]: report["target_tokens"] for report in reports}
    steps = sorted(known)
    metric = run.config.validation.metric
    return [
        ValidationPoint(
            record["step"],
            record["seconds"],
            round(float(np.interp(record["step"], steps, [known[step] for step in steps]))),
            record["loss"],
            record.get(metric) if metric != "loss" else None,
        )
        for record in records
        if record["event"] == "validation"
    ]


# Quality


def length_unit(sources: Sequence[str]) -> str:
    """`words` if most sources have more than one, else `characters`."""
    spaced = sum(len(source.split()) > 1 for source in sources)
    return "words" if 2 * spaced > len(sources) else "characters"


def length_of(source: str, unit: str) -> int:
    """Words or characters; at least 1."""
    return max(1, len(source.split()) if unit == "words" else len(source))


def quality_by_length(
    pairs: Sequence[Pair], output_of: Mapping[str, str], metric: str, unit: str
) -> list[LengthBucket]:
    """The metric for sources of length 1–10, 11–20, …, neighbours merged until each has about 20 pairs.

    Args:
        pairs: sources with references.
        output_of: the output for each source.
        metric: a name from `qkv.metrics.metrics.METRICS`.
        unit: `words` or `characters`.
    """
    by_bucket: dict[int, list[Pair]] = {}
    for pair in pairs:
        by_bucket.setdefault((length_of(pair.source, unit) - 1) // _BUCKET_WIDTH, []).append(pair)
    merged: list[tuple[int, int, list[Pair]]] = []
    for bucket, inside in sorted(by_bucket.items()):
        low, high = bucket * _BUCKET_WIDTH + 1, (bucket + 1) * _BUCKET_WIDTH
        if merged and len(merged[-1][2]) < _PAIRS_PER_BUCKET:
            low, _, before = merged.pop()
            inside = before + inside
        merged.append((low, high, inside))
    if len(merged) > 1 and len(merged[-1][2]) < _PAIRS_PER_BUCKET:
        _, high, last = merged.pop()
        low, _, before = merged.pop()
        merged.append((low, high, before + last))
    return [
        LengthBucket(low, high, len(inside), compute_for_pairs([metric], inside, output_of)[metric].value)
        for low, high, inside in merged
    ]


def choose_examples(pairs: Sequence[Pair], output_of: Mapping[str, str]) -> list[Example]:
    """One source at random from each fifth of the lengths: the same for all variants, and not the prettiest."""
    references = {pair.source: pair.target for pair in reversed(pairs)}
    sources = sorted(references, key=lambda source: (len(source), source))
    count = min(_EXAMPLES, len(sources))
    chance = random.Random(0)
    fifths = [sources[i * len(sources) // count : (i + 1) * len(sources) // count] for i in range(count)]
    chosen = [chance.choice(fifth) for fifth in fifths]
    return [Example(source, references[source], output_of[source]) for source in chosen]
