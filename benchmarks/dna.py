"""Score runs of recipes/dna.yaml on real genes: within the lengths that were trained on, and on ever longer ones.
Adds each run to benchmarks/results/dna.json, under its name; runs that stand there already are kept.

    python benchmarks/dna.py runs/dna [runs/dna-gru-attention ...] [--data data/dna] [--beam 1]
"""

import argparse
import json
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import record

import qkv
from qkv.files import write_text
from qkv.metrics import compute
from qkv.run.directory import Run
from qkv.text.corpus import Pair, read_pairs
from qkv.translator import Translator

METRICS = ["residues", "exact_match", "cer"]
WINDOWS = {"test": ((1, 10), (11, 20), (21, 30)), "windows-60": ((31, 45), (46, 60))}
"""File → fewest and most codons of its rows in the table."""
GENES = ("genes-60", "genes-120", "genes-240", "genes-480")


def buckets(data: Path) -> Iterator[tuple[str, list[Pair]]]:
    """What is scored apart: its name, and its pairs of a coding sequence and a protein."""
    for file, ranges in WINDOWS.items():
        pairs = list(read_pairs(data / f"{file}.tsv"))
        if file == "test":
            yield "all windows as long as in training", pairs
        for fewest, most in ranges:
            yield f"windows of {fewest}–{most} codons", [p for p in pairs if fewest <= len(p.target) <= most]
    for file in GENES:
        yield f"whole {file.replace('-', ' of at most ')} codons", list(read_pairs(data / f"{file}.tsv"))


def score(translator: Translator, pairs: list[Pair], beam: int) -> dict[str, Any]:
    """The bucket's size and scores; these are None if the model has too few positions for its sequences."""
    result: dict[str, Any] = {"sequences": len(pairs), "codons": sum(len(pair.target) for pair in pairs)}
    limit = translator.model.longest
    if limit is not None and max(len(pair.source) + 1 for pair in pairs) > limit:
        return result | dict.fromkeys(METRICS)
    outputs = translator.translate([pair.source for pair in pairs], beam=beam)
    scores = compute(METRICS, outputs, [[pair.target] for pair in pairs])
    return result | {name: round(value.value, 2) for name, value in scores.items()}


def table(results: dict[str, dict[str, Any]]) -> Iterable[str]:
    """A line per bucket: its name, residues and exact matches in percent."""
    for name, result in results.items():
        values = "too long for it" if result["residues"] is None else "{residues:8.2f} {exact_match:8.2f}"
        yield f"  {name:38}{values.format(**result)}"


def main() -> None:
    """Translate real genes with every run, and print and write the scores."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", help="run directories")
    parser.add_argument("--data", type=Path, default=Path("data/dna"))
    parser.add_argument("--beam", type=int, default=1)
    options = parser.parse_args()

    trained_on = {pair.source for file in ("train", "validation") for pair in read_pairs(options.data / f"{file}.tsv")}
    parts = dict(buckets(options.data))
    seen = [pair.source for pairs in parts.values() for pair in pairs if pair.source in trained_on]
    assert not seen, f"test sequences that were trained on: {seen[:5]}"

    for path in options.runs:
        run, translator = Run.open(path), qkv.load(path)
        began = time.perf_counter()
        scores = {name: score(translator, pairs, options.beam) for name, pairs in parts.items()}
        print(path, f"  {'residues %':>46} exact %", *table(scores), sep="\n")
        result = {
            "architecture": run.config.model.architecture,
            "position": (run.config.model.model_extra or {}).get("position"),
            "parameters": sum(p.numel() for p in translator.model.parameters()),
            "beam": options.beam,
            "lengths": scores,
            "decoding_seconds": round(time.perf_counter() - began, 1),
        }
        keep(run.path.name, result | how_it_was_trained(run))


def how_it_was_trained(run: Run) -> dict[str, Any]:
    """As of any run, but all of these are made from one recipe."""
    how = record.how_it_was_trained(run)
    model = run.config.model
    said = f"recipes/dna.yaml run={run.path} model.architecture={model.architecture}"
    if "position" in (model.model_extra or {}):
        said += f" model.position={model.model_extra['position']}"
    return how | {"command": how["command"].replace(f"recipes/{run.path.name}.yaml", said)}


def keep(name: str, result: dict[str, Any]) -> None:
    """Write a run's result beside those of other runs."""
    path = record.RESULTS / "dna.json"
    results = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_text(path, json.dumps(results | {name: result}, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
