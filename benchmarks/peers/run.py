"""qkv against its peers, in one run: training, decoding, latency, quality and memory.

    make bench                                   # everything; about an hour on two cores
    make bench PARTS=training.small,decoding     # some of it
    make bench QUICK=1                           # seconds each: does everything still work?

Writes benchmarks/results/peers.json (quick: build/peers/quick.json) and prints the tables of it. The peers live in an
environment of their own, build/peers/venv, which is made first.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import report
from decoding_speed import Extent, measure_decoding
from environment import peers_python
from hardware import hardware, now
from material import prepare_material
from training_speed import Effort, measure_training

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("training.small", "training.base", "decoding")
VOCAB_SIZE, SEED = 8000, 1


def main() -> None:
    """Measure the parts that are asked for."""
    options = _options()
    out = options.build / "quick.json" if options.quick else options.out
    pythons = {"qkv": Path(sys.executable), "peers": peers_python(options.build)}
    material = prepare_material(options.build / "material", options.data.resolve(), VOCAB_SIZE, SEED)
    threads, wanted = options.threads, options.systems
    effort, extent = Effort(options.rounds, options.seconds, 5.0), Extent(options.rounds, 1000, 40, options.candidates)
    if options.quick:
        effort, extent = Effort(1, 2.0, 0.0, 512), Extent(1, 8, 2, 1)
    for part in options.parts:
        print(f"==> {part}", flush=True)
        scratch = options.build / "scratch" / part
        if part.startswith("training."):
            size = part.removeprefix("training.")
            found = measure_training(size, wanted, material, pythons, threads, effort, scratch)
        else:
            found = measure_decoding(options.run, wanted, material.test(), pythons, threads, extent, scratch)
        keep(out, part, found | {"hardware": hardware(), "measured": now()})
    print(report.markdown(json.loads(out.read_text("utf-8"))))


def keep(out: Path, part: str, found: dict[str, Any]) -> None:
    """Put a part into the results, in place of what was there of it."""
    results = json.loads(out.read_text("utf-8")) if out.is_file() else {}
    details = results.get("details", {}) | {part: found}
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(report.headlines(details) | {"details": details}, indent=1) + "\n", encoding="utf-8")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=lambda text: text.split(","), default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--systems", type=lambda text: text.split(","), help="only these, by the names in the results")
    parser.add_argument("--data", type=Path, default=ROOT / "data/multi30k")
    parser.add_argument("--run", type=Path, help="a trained run, for decoding")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=15.0, help="of training, each system in each round")
    parser.add_argument("--candidates", type=int, default=5, help="batch sizes tried in decoding; 1: none is chosen")
    parser.add_argument("--quick", action="store_true", help="a smoke test; its numbers mean nothing")
    parser.add_argument("--build", type=Path, default=ROOT / "build/peers")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/peers.json")
    options = parser.parse_args()
    unknown = set(options.parts) - set(PARTS)
    if unknown:
        parser.error(f"no part is called {', '.join(sorted(unknown))}; there are {', '.join(PARTS)}")
    if not (options.data / "train.en").is_file():
        parser.error(f"{options.data}: no Multi30k here (train.en is missing); say --data DIRECTORY")
    if "decoding" in options.parts and options.run is None:
        parser.error("decoding needs a trained run: --run DIRECTORY")
    return options


if __name__ == "__main__":
    main()
