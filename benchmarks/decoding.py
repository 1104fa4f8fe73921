"""How fast each way of decoding a run is, and what it costs in BLEU: precisions, shortlist, greedy and beam search.

    python benchmarks/decoding.py runs/multi30k-en-de [--threads 2] [--limit 200] [--shortlist 20] [--rounds 3]

Ways take turns, so that whatever else the machine does meets all of them alike. Throughput is of all test sources at
once, tokenisation included, the best of the rounds; latency is of one source at a time, in ms. Writes
benchmarks/results/decoding.json.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Sequence
from typing import Any

import record
import torch

import qkv
from qkv.devices import keep_freed_memory
from qkv.metrics.translation import BLEU
from qkv.run.directory import Run
from qkv.run.preparation import pair_files
from qkv.text.corpus import Pair, read_pairs
from qkv.translator import Translator

WAYS: dict[str, dict[str, Any]] = {
    "float32": {},
    "float32, shortlist": {"shortlist": True},
    "int8": {"precision": "int8"},
    "int8, shortlist": {"precision": "int8", "shortlist": True},
    "bf16": {"precision": "bf16"},
}
BEAMS = (1, 5)
ALONE = 50  # sources that latency is measured on


def load_ways(run: str, names: Sequence[str], count: int) -> dict[str, Translator]:
    """A translator for each way; what is learnt on first use is learnt here."""
    loaded = {}
    for name in names:
        options = WAYS[name] | ({"shortlist": count} if "shortlist" in WAYS[name] else {})
        loaded[name] = qkv.load(run, device="cpu", engine="torch", **options)
    return loaded


def measure(ways: dict[str, Translator], pairs: Sequence[Pair], beam: int, rounds: int) -> dict[str, dict[str, float]]:
    """Sentences per second, latency and BLEU of every way."""
    sources, references = [pair.source for pair in pairs], [[pair.target] for pair in pairs]
    alone = sources[:: max(1, len(sources) // ALONE)][:ALONE]
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    latencies: dict[str, list[float]] = {name: [] for name in ways}
    bleu: dict[str, float] = {}
    for round_number in range(rounds):
        for name, translator in ways.items():
            began = time.perf_counter()
            outputs = translator.translate(sources, beam=beam)
            seconds[name].append(time.perf_counter() - began)
            if round_number == 0:
                bleu[name] = BLEU(outputs, references).value
    for source in alone:
        for name, translator in ways.items():
            began = time.perf_counter()
            translator.translate(source, beam=beam)
            latencies[name].append(1e3 * (time.perf_counter() - began))
    return {
        name: {
            "sentences_per_second": round(len(sources) / min(seconds[name]), 1),
            "latency_median_ms": round(statistics.median(latencies[name]), 2),
            "latency_p95_ms": round(statistics.quantiles(latencies[name], n=20)[-1], 2),
            "bleu": round(bleu[name], 2),
        }
        for name in ways
    }


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="a run directory whose recipe has data.test")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--limit", type=int, default=None, help="test pairs used, spread over all; all by default")
    parser.add_argument("--shortlist", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--ways", default=",".join(WAYS).replace(", ", " "), help="between commas: int8,int8 shortlist")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    keep_freed_memory()
    pairs = list(read_pairs(pair_files(Run.open(options.run).config, "test")))
    if options.limit is not None:
        pairs = pairs[:: max(1, len(pairs) // options.limit)][: options.limit]
    names = [name for name in WAYS if name.replace(", ", " ") in options.ways.split(",")]
    ways = load_ways(options.run, names, options.shortlist)
    result = {
        "run": str(options.run),
        "pairs": len(pairs),
        "threads": options.threads,
        "torch": torch.__version__,
        "machine": platform.processor() or platform.machine(),
        "beams": {str(beam): measure(ways, pairs, beam, options.rounds) for beam in BEAMS},
    }
    text = json.dumps(result, indent=1)
    print(text)
    record.RESULTS.mkdir(exist_ok=True)
    (record.RESULTS / "decoding.json").write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
