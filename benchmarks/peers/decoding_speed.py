"""Decoding: throughput, latency and BLEU of one trained model in every system, taking turns on test2016."""

import math
import shutil
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hardware import NO_BF16, has_bf16
from process import System, noting

import qkv
from qkv.decoding.engines.ctranslate2_model import specification
from qkv.errors import UserError
from qkv.interchange.marian import MARIAN
from qkv.metrics.translation import BLEU
from qkv.run.directory import Run

BEAMS = {"greedy": 1, "beam5": 5}
PRECISIONS = ("float32", "bf16", "int8")
SHORTLIST = 20  # target tokens for each source token
SLOW = 200  # sentences are enough to time a slow system; its BLEU is of all
ABOUT = {
    "qkv-float32": "qkv.load(run), torch engine",
    "qkv-bf16": "qkv.load(run, precision='bf16'), torch engine",
    "qkv-int8": "qkv.load(run, precision='int8'), torch engine",
    "qkv-float32-shortlist": "qkv.load(run, shortlist=20), torch engine",
    "qkv-int8-shortlist": "qkv.load(run, precision='int8', shortlist=20), torch engine",
    "qkv-ctranslate2-int8": "qkv.load(run, engine='ctranslate2', precision='int8'): the peer through our own door",
    "ctranslate2-float32": "many sentences: as many workers as threads, one thread each; single ones: one worker",
    "ctranslate2-int8": "the same, weights and activations in int8",
    "hf-generate": "MarianMTModel.generate, batches sorted by length",
}
MKL = [{}, {"CT2_USE_MKL": "1"}]  # off Intel, CTranslate2 takes MKL only if told to; whichever is faster is measured


@dataclass
class Contender:
    """A system with what was chosen for it.

    Attributes:
        system: the process.
        sources: what it is timed on.
        variants: environments to choose from.
        sizes: the best batch size for each beam, in the system's own measure.
        threads: the best number of threads for single sentences, for each beam.
    """

    system: System
    sources: list[str]
    variants: list[dict[str, str]] = field(default_factory=lambda: [{}])
    sizes: dict[str, int] = field(default_factory=dict)
    threads: dict[str, int] = field(default_factory=dict)
    seconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in BEAMS})
    milliseconds: dict[str, list[float]] = field(default_factory=lambda: {name: [] for name in BEAMS})
    outputs: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True)
class Extent:
    """How much is measured.

    Attributes:
        rounds: turns of each system.
        sentences: of the test set that are translated.
        single: sentences translated one by one in each turn.
        candidates: batch sizes tried, of those that a system offers the last; with one, nothing is chosen.
    """

    rounds: int
    sentences: int
    single: int
    candidates: int


def measure_decoding(
    run: Path,
    wanted: list[str] | None,
    test: tuple[list[str], list[str]],
    pythons: dict[str, Path],
    threads: int,
    extent: Extent,
    scratch: Path,
) -> dict[str, Any]:
    """Translate with each system in turn; one that fails is reported, and the others go on.

    Args:
        run: a trained run of qkv; the other systems get its model exported.
        wanted: names of systems; None for all.
        test: sources and references.
        pythons: interpreters, "qkv" and "peers".
        threads: of every system.
        extent: how much.
        scratch: a directory for exports and logs; what was there is removed.
    """
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    sources, references = (lines[: extent.sentences] for lines in test)
    failed: dict[str, str] = {}
    contenders = []
    for name in ABOUT:
        if wanted is None or name in wanted:
            try:
                contenders.append(_contender(name, run.resolve(), sources, pythons, threads, scratch.resolve()))
            except UserError as error:
                failed[name] = str(error)
    try:
        for contender in contenders:
            with noting(contender.system, failed):
                _choose(contender, extent.candidates, scratch)
                for name, beam in BEAMS.items():
                    size = contender.sizes[name]
                    answer = contender.system.ask("batch", sources=sources, beam=beam, size=size)
                    contender.outputs[name] = answer["outputs"]
                print(f"    {contender.system.name}: {contender.system.about}", flush=True)
        for number in range(extent.rounds):
            some = sources[number * extent.single :][: extent.single] or sources[: extent.single]
            for contender in contenders if number % 2 == 0 else reversed(contenders):
                if contender.system.name not in failed:
                    with noting(contender.system, failed):
                        _turn(contender, some)
                        print(f"    round {number + 1}, {contender.system.name}: {_speeds(contender)}", flush=True)
    finally:
        for contender in contenders:
            contender.system.stop()
    done = [contender for contender in contenders if contender.system.name not in failed]
    exact = next((c.outputs for c in done if c.system.name == "qkv-float32"), None)
    return {
        "systems": {contender.system.name: _summary(contender, references, exact) for contender in done},
        "failed": failed,
        "settings": {
            "run": run.name,
            "sentences": len(sources),
            "rounds": extent.rounds,
            "single_sentences": extent.rounds * extent.single,
            "threads": threads,
        },
    }


def _contender(
    name: str, run: Path, sources: list[str], pythons: dict[str, Path], threads: int, scratch: Path
) -> Contender:
    """The system with its model exported; `UserError` if that cannot be."""
    family, *setting = name.split("-")
    precision = next(one for one in setting if one in PRECISIONS) if family != "hf" else "float32"
    if precision == "bf16" and not has_bf16():
        raise UserError(NO_BF16)
    tokenizer = Run.open(run).tokenizer_path / "joint.model"
    options = {"run": str(run), "precision": precision, "threads": threads, "tokenizer": str(tokenizer)}
    if family == "qkv":
        options |= {"engine": "ctranslate2" if "ctranslate2" in setting else "torch"}
        options |= {"shortlist": SHORTLIST if "shortlist" in setting else None}
        return Contender(System(name, "decode_qkv.py", pythons["qkv"], options, threads, ABOUT[name]), sources)
    if not tokenizer.is_file():
        raise UserError(f"{run}: has two tokenizers, and this benchmark knows joint ones only")
    translator = qkv.load(run, device="cpu", engine="torch")
    model = scratch / f"{name}-model"
    options["model"] = str(model)
    if family == "ctranslate2":
        model.mkdir()
        specification(translator.model, translator.tokenizers, precision).save(str(model))
        system = System(name, "decode_ctranslate2.py", pythons["peers"], options, threads, ABOUT[name])
        return Contender(system, sources, MKL)
    MARIAN.refuse(translator.model)
    model.mkdir()
    MARIAN.write(translator.model, translator.tokenizers, model)
    every = max(1, len(sources) // SLOW)
    system = System(name, "decode_hf.py", pythons["peers"], options, threads, ABOUT[name])
    return Contender(system, sources[::every][:SLOW])


def _choose(contender: Contender, candidates: int, scratch: Path) -> None:
    """Start the system in its fastest variant, with its best batch sizes and numbers of threads."""
    system, tried = contender.system, []
    for variant in contender.variants if candidates > 1 else contender.variants[:1]:
        _start(system, variant, scratch)
        chosen = {beam: _best_size(contender, beam, candidates) for beam in BEAMS.values()}
        tried.append((sum(seconds for _, seconds in chosen.values()), variant, chosen))
    _, best, chosen = min(tried, key=lambda each: each[0])
    if system.environment != best:
        _start(system, best, scratch)
    contender.sizes = {name: chosen[beam][0] for name, beam in BEAMS.items()}
    contender.threads = {name: _best_threads(contender, beam) for name, beam in BEAMS.items()}
    told = "".join(f", {key}={value}" for key, value in best.items())
    system.about += f"; batch sizes {contender.sizes}, threads for one sentence {contender.threads}{told}"


def _start(system: System, variant: dict[str, str], scratch: Path) -> None:
    system.stop()
    system.environment = variant
    system.start(scratch)


def _best_size(contender: Contender, beam: int, candidates: int) -> tuple[int, float]:
    """The batch size that takes the fewest seconds, and these."""
    system, sources = contender.system, contender.sources

    def seconds(size: int) -> float:
        return float(system.ask("batch", sources=sources, beam=beam, size=size)["seconds"])

    sizes = system.ask("choices")["batch_sizes"][-candidates:]
    if len(sizes) == 1:
        return sizes[0], 0.0
    seconds(sizes[-1])
    return _fastest(sizes, seconds)


def _best_threads(contender: Contender, beam: int) -> int:
    """The number of threads that is quickest with one sentence at a time."""
    system, sources = contender.system, contender.sources[-10:]

    def milliseconds(threads: int) -> float:
        return sum(_latency(system, sources, beam, threads))

    return _fastest(system.ask("choices")["threads"], milliseconds)[0]


def _fastest(choices: list[int], measure: Callable[[int], float]) -> tuple[int, float]:
    """The choice with the lowest measurement, the better of two each, and that measurement."""
    found = {choice: min(measure(choice), measure(choice)) for choice in choices}
    best = min(found, key=lambda choice: found[choice])
    return best, found[best]


def _latency(system: System, sources: list[str], beam: int, threads: int) -> list[float]:
    found: list[float] = system.ask("latency", sources=sources, beam=beam, threads=threads)["milliseconds"]
    return found


def _turn(contender: Contender, single: list[str]) -> None:
    for name, beam in BEAMS.items():
        answer = contender.system.ask("batch", sources=contender.sources, beam=beam, size=contender.sizes[name])
        contender.seconds[name].append(answer["seconds"])
        _latency(contender.system, single[:2], beam, contender.threads[name])
        contender.milliseconds[name] += _latency(contender.system, single, beam, contender.threads[name])


def _speeds(contender: Contender) -> str:
    rates = (f"{name} {len(contender.sources) / seconds[-1]:,.1f}" for name, seconds in contender.seconds.items())
    return ", ".join(rates) + " sentences/s"


def _summary(contender: Contender, references: list[str], exact: dict[str, list[str]] | None) -> dict[str, Any]:
    summary: dict[str, Any] = {}
    for name in BEAMS:
        rates = [len(contender.sources) / seconds for seconds in contender.seconds[name]]
        waits = sorted(contender.milliseconds[name])
        bleu = BLEU(contender.outputs[name], [[reference] for reference in references])
        summary[name] = {
            "sentences_per_second": round(statistics.median(rates), 1),
            "lowest": round(min(rates), 1),
            "highest": round(max(rates), 1),
            "latency_ms": {
                "median": round(statistics.median(waits), 2),
                "p95": round(waits[math.ceil(0.95 * len(waits)) - 1], 2),
                "sentences": len(waits),
                "threads": contender.threads[name],
            },
            "bleu": round(bleu.value, 2),
            "signature": bleu.signature,
            "batch_size": contender.sizes[name],
        }
        if exact is not None:
            same = sum(a == b for a, b in zip(contender.outputs[name], exact[name], strict=True))
            summary[name]["outputs_equal_to_qkv_float32"] = round(same / len(references), 4)
    system = contender.system
    about = {"peak_memory_mb": system.peak_mb, "versions": system.versions, "about": system.about}
    return summary | about
