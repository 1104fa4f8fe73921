"""How fast a run is on this machine: training, decoding many sentences, and one at a time."""

import gc
import statistics
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice, product
from pathlib import Path
from typing import TypeVar

import torch

from qkv.config.schema import TrainingConfig
from qkv.decoding.engines.registry import ENGINES
from qkv.devices import Precision, undisturbed
from qkv.errors import UserError
from qkv.loading import load
from qkv.measuring.environment import Environment, seconds_of
from qkv.measuring.rates import Benchmark, DecodingRate, TrainingRate
from qkv.measuring.speed import TrainingStep
from qkv.nn.seq2seq import Seq2Seq
from qkv.progress import bar
from qkv.run.directory import Run
from qkv.run.preparation import pair_files
from qkv.text.batches import Batch, BatchPlan, collate
from qkv.text.corpus import Pair, PairFiles, read_pairs
from qkv.text.encoded import write_encoded
from qkv.text.tokenizer import Tokenizers
from qkv.translator import Translator

MEASURED = tuple(name for name in ENGINES if name != "auto")
"""Engines that are measured: auto is one of them."""
PRECISIONS = ("float32", "bf16", "int8")

Item = TypeVar("Item")

_PAIRS = 2_000
_BATCHES = 20
_TRAINING_SHARE = 3  # of the time: as much as so many of the other measurements


def benchmark(
    run: str | Path,
    *,
    files: PairFiles | None = None,
    checkpoint: str | Path | None = None,
    device: str = "auto",
    engines: Sequence[str] = MEASURED,
    beam: int | None = None,
    seconds: float = 60.0,
    progress: bool = False,
) -> Benchmark:
    """Measure a trained run on pairs of its own; nothing in it is changed, but engines may leave their models there.

    Args:
        run: the run directory.
        files: pairs in place of the recipe's own (test, validation or training pairs: the first that can be read).
        checkpoint: the run's best by default.
        device: auto, cpu, cuda or cuda:N.
        engines: which to try; one that cannot run the model is left out, and the reason is told.
        beam: beside greedy search; the recipe's by default.
        seconds: about how long it may take, loading not counted. What needs longer is measured once all the same.
        progress: show a progress bar on stderr, if that is a terminal.

    Raises:
        UserError: if the run or its pairs cannot be read, or no engine can run the model.
    """
    began = time.perf_counter()
    opened = Run.open(run)
    path = opened.find_checkpoint(checkpoint)
    pairs = _pairs(opened, files)
    reference = load(run, checkpoint=path, device=device, engine="torch", precision="float32")
    beams = sorted({1, reference.options.beam if beam is None else beam})
    decoding_kinds = list(product(engines, PRECISIONS))
    training_precisions: list[Precision] = ["float32", "bf16"]
    share = seconds / (_TRAINING_SHARE * len(training_precisions) + 2 * len(beams) * len(decoding_kinds))
    sources = [source for source in dict.fromkeys(pair.source for pair in pairs) if source.strip()]
    if not sources:
        raise UserError(f"{run}: there is no source to translate in its pairs")
    training: list[TrainingRate] = []
    decoding: list[DecodingRate] = []
    left_out: list[str] = []

    def train(precision: Precision) -> None:
        settings = opened.config.training.model_copy(update={"precision": precision})
        training.append(_training_rate(reference.model, batches, settings, share * _TRAINING_SHARE))

    def decode(engine: str, precision: str) -> None:
        with undisturbed():
            translator = load(run, checkpoint=path, device=device, engine=engine, precision=precision)
            decoding.extend(_decoding_rate(translator, engine, precision, sources, width, share) for width in beams)

    parts = {f"training {precision}": partial(train, precision) for precision in training_precisions}
    parts |= {f"{engine} {precision}": partial(decode, engine, precision) for engine, precision in decoding_kinds}
    estimate = f"about {seconds:.0f} s"
    with bar(len(parts), "parts", progress, what=estimate) as advance:
        batches = _batches(opened, pairs, reference.tokenizers, reference.model)
        for part, measured in parts.items():
            advance(0, f"{estimate}: {part}")
            try:
                measured()
            except UserError as error:
                left_out.append(f"{part}: {error}")
            gc.collect()
            advance(1)
    if not decoding:
        raise UserError(f"nothing can decode {run}: {'; '.join(left_out)}")
    return Benchmark(
        run=str(run),
        checkpoint=path.name,
        parameters=sum(parameter.numel() for parameter in reference.model.parameters()),
        training=training,
        decoding=decoding,
        left_out=left_out,
        environment=Environment.here(str(reference.device)),
        seconds=time.perf_counter() - began,
    )


# What is measured


def _training_rate(model: Seq2Seq, batches: Sequence[Batch], settings: TrainingConfig, seconds: float) -> TrainingRate:
    device = next(model.parameters()).device
    with undisturbed(), closing(TrainingStep(model, settings)) as step:

        def time_of(batch: Batch) -> float:
            return seconds_of(lambda: step([batch]), device)

        probe = batches[0].split(len(batches[0].source) // 2)[0]  # about two rows
        time_of(probe)
        expected = time_of(probe) * batches[0].num_target_tokens / probe.num_target_tokens
        if settings.precision != "float32" and expected > 3 * seconds:  # emulated, where there are no such instructions
            raise UserError(f"one batch would take about {expected:.0f} s")
        reset_peak(device)
        rates = [batch.num_target_tokens / time_of(batch) for batch in _within(seconds, batches, fewest=1)]
    return TrainingRate(settings.precision, statistics.median(rates), len(rates), peak_megabytes(device))


def _decoding_rate(
    translator: Translator, engine: str, precision: str, sources: Sequence[str], beam: int, seconds: float
) -> DecodingRate:
    device = translator.device

    def time_of(texts: Sequence[str]) -> float:
        return seconds_of(lambda: translator.translate(texts, beam=beam), device)

    time_of(sources[:2])
    reset_peak(device)
    alone = sorted(time_of([source]) for source in _within(seconds, _spread(sources, len(sources)), fewest=3))
    # As many at once as take a third of the time, going by how long a few take.
    few = _spread(sources, min(32, max(2, int(seconds / 4 / statistics.median(alone)))))
    many = _spread(sources, max(len(few), int(len(few) * seconds / 3 / time_of(few))))
    rates = [len(many) / time_of(many) for _ in _within(seconds, range(9), fewest=1)]
    return DecodingRate(
        engine=engine,
        precision=precision,
        beam=beam,
        sentences=len(many),
        sentences_per_second=statistics.median(rates),
        latency_median=1000 * statistics.median(alone),
        latency_p95=1000 * alone[round(0.95 * (len(alone) - 1))],
        singles=len(alone),
        peak_megabytes=peak_megabytes(device),
    )


def _within(seconds: float, items: Sequence[Item], fewest: int) -> Iterator[Item]:
    """The items, from the front, as long as time is left; the fewest in any case."""
    ends = time.perf_counter() + seconds
    for number, item in enumerate(items):
        if number >= fewest and time.perf_counter() > ends:
            return
        yield item


def _spread(items: Sequence[Item], count: int) -> list[Item]:
    """At most so many of the items, evenly spread, in an order that makes any beginning of them spread, too."""
    count = min(count, len(items))
    chosen = [items[index * len(items) // count] for index in range(count)]
    order = sorted(range(count), key=lambda index: f"{index:032b}"[::-1])
    return [chosen[index] for index in order]


# Memory


def reset_peak(device: torch.device) -> None:
    """Forget how much memory was in use at most; where the system cannot, do nothing."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_megabytes(device: torch.device) -> float | None:
    """Most memory in use since `reset_peak`, of the GPU or else of this process; None if the system does not tell."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    peaks = [int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM:")]
    return peaks[0] if peaks else None


# The run's own pairs


def _pairs(run: Run, files: PairFiles | None) -> list[Pair]:
    """A few thousand of the given pairs, or of the recipe's."""
    if files is not None:
        return list(islice(read_pairs(files), _PAIRS))
    problems = []
    for name in ("test", "validation", "train"):
        if getattr(run.config.data, name) is not None:
            try:
                return list(islice(read_pairs(pair_files(run.config, name)), _PAIRS))
            except UserError as error:
                problems.append(str(error))
    raise UserError(f"{run.path}: none of its pairs can be read; say --data FILE ({problems[0]})")


def _batches(run: Run, pairs: Sequence[Pair], tokenizers: Tokenizers, model: Seq2Seq) -> list[Batch]:
    """Batches as training has them, from all over the lengths."""
    config, device = run.config, next(model.parameters()).device
    longest = min(config.data.max_length, model.longest or config.data.max_length)
    with tempfile.TemporaryDirectory() as directory:
        corpus = write_encoded(Path(directory) / "pairs", pairs, tokenizers, max_length=longest)
        plan = BatchPlan(
            corpus.source_lengths, corpus.target_lengths, config.training.batch_tokens, seed=config.seed, epoch=0
        )
        chosen = _spread(range(len(plan)), _BATCHES)
        return [collate(corpus, plan[index], tokenizers).to(device) for index in chosen]
