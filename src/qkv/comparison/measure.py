"""What is measured of one trained run: size, learning curve, scores, speed, a few outputs."""

import math
import random
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from qkv.comparison.results import Example, Measurement, TrainingPoint, ValidationPoint
from qkv.config.schema import Config
from qkv.evaluation.by_length import length_unit, quality_by_length
from qkv.evaluation.evaluate import evaluate
from qkv.loading import load
from qkv.measuring.environment import Environment, now
from qkv.measuring.speed import LENGTHS, decoding_speed, times_by_length
from qkv.progress import tell
from qkv.run.checkpoint import TrainingState, read_state
from qkv.run.directory import Run
from qkv.run.preparation import pair_files
from qkv.text.corpus import Pair

_EXAMPLES = 5


def scored_pairs(config: Config) -> str:
    """Which pairs the scores are of: `test`, or `validation` where the recipe has no test pairs."""
    return "validation" if config.data.test is None else "test"


def measure(config: Config, metrics: Sequence[str], beam: int | None, *, progress: bool = False) -> Measurement:
    """Measure a trained run; nothing in it is changed.

    Args:
        config: the variant's; `config.run` is the run.
        metrics: names from `qkv.metrics.METRICS`.
        beam: in place of the recipe's `decoding.beam`.
        progress: show a progress bar while the test pairs are decoded.

    Raises:
        UserError: if the run or the pairs cannot be read.
    """
    run = Run.open(config.run)
    translator = load(run.path, device=config.device)
    beam = config.decoding.beam if beam is None else beam
    name = scored_pairs(config)
    tokenize = config.evaluation.bleu_tokenize
    evaluation = evaluate(
        translator, pair_files(config, name), metrics, beam=beam, bleu_tokenize=tokenize, progress=progress
    )
    for remark in evaluation.remarks if progress else ():
        tell(remark)
    output_of = dict(zip((pair.source for pair in evaluation.pairs), evaluation.outputs, strict=True))
    speed = decoding_speed(translator, list(output_of), beam)
    unit = length_unit(list(output_of))
    return Measurement(
        architecture=config.model.architecture,
        parameters=sum(parameter.numel() for parameter in translator.model.parameters()),
        **how_it_learnt(run),
        validation_metric=config.validation.metric,
        pairs_name=name,
        pairs=len(evaluation.pairs),
        beam=beam,
        scores=list(evaluation.scores.values()),
        length_unit=unit,
        by_length=quality_by_length(evaluation.pairs, output_of, metrics[0], unit, evaluation.settings),
        decoding=speed,
        times=times_by_length(translator, config.training, lengths=LENGTHS),
        examples=choose_examples(evaluation.pairs, output_of),
        environment=Environment.here(str(translator.device)),
        date=now(),
        bleu_tokenize=tokenize,
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
            if _is_number(record["nll"])
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
        if record["event"] == "validation" and _is_number(record["loss"])
    ]


def _is_number(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


# Quality


def choose_examples(pairs: Sequence[Pair], output_of: Mapping[str, str]) -> list[Example]:
    """One source at random from each fifth of the lengths: the same for all variants, and not the prettiest."""
    references = {pair.source: pair.target for pair in reversed(pairs)}
    sources = sorted(references, key=lambda source: (len(source), source))
    count = min(_EXAMPLES, len(sources))
    chance = random.Random(0)
    fifths = [sources[i * len(sources) // count : (i + 1) * len(sources) // count] for i in range(count)]
    chosen = [chance.choice(fifth) for fifth in fifths]
    return [Example(source, references[source], output_of[source]) for source in chosen]
