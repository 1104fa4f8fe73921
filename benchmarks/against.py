"""Is this checkout as fast as another one? Training and decoding of the same runs, taking turns, as ratios of medians.

    python benchmarks/against.py ../before/src runs/a runs/b --sources test.en

The runs were made by the other checkout: an older format loads here, not the other way round. Every figure comes
from a process of its own, with nothing else running. Training goes through `qkv.train` on the run's own recipe for some
steps; decoding through `qkv.load`, with the engine that a recipe of that checkout has by default, and with torch.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parents[1] / "src"
KINDS = ("training", "greedy", "beam 5", "one sentence", "greedy torch", "beam 5 torch", "one sentence torch")


def main() -> None:
    """Measure in turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="the src directory of the other checkout")
    parser.add_argument("runs", type=Path, nargs="+", help="run directories")
    parser.add_argument("--sources", type=Path, required=True, help="a text file, one source a line")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=30, help="of training")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(_worker(options, options.runs[0])[options.worker]()))
        return
    found: dict[str, dict[str, float]] = {}
    print(f"{'run':26}{'':22}{'there':>10}{'here':>10}{'ratio':>8}   (a second: tokens, sentences)")
    for run in options.runs:
        for kind in options.kinds.split(","):
            rates: dict[Path, list[float]] = {options.other: [], HERE: []}
            for turn in range(options.rounds):
                for tree in list(rates)[:: 1 if turn % 2 else -1]:
                    rates[tree].append(_measured(tree, run, kind, options))
            there, here = (statistics.median(values) for values in rates.values())
            found.setdefault(run.name, {})[kind] = here / there
            print(f"{run.name:26}{kind:22}{there:10.1f}{here:10.1f}{here / there:8.2f}", flush=True)
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _measured(tree: Path, run: Path, kind: str, options: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "there", str(run), "--worker", kind, "--sources", str(options.sources)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return float(ran.stdout.splitlines()[-1])


def _worker(options: argparse.Namespace, run: Path) -> dict[str, Callable[[], float]]:
    def decoding(beam: int, *, alone: bool = False, **engine: str) -> Callable[[], float]:
        return lambda: _decoding(run, options, beam, alone, engine)

    return {
        "training": lambda: _training(run, options),
        "greedy": decoding(1),
        "beam 5": decoding(5),
        "one sentence": decoding(5, alone=True),
        "greedy torch": decoding(1, engine="torch"),
        "beam 5 torch": decoding(5, engine="torch"),
        "one sentence torch": decoding(5, alone=True, engine="torch"),
    }


def _training(run: Path, options: argparse.Namespace) -> float:
    import qkv
    from qkv.devices import keep_freed_memory

    keep_freed_memory()  # as the command line does
    with tempfile.TemporaryDirectory() as directory:
        new = Path(directory) / "run"
        changes = [f"run={new}", f"training.steps={options.steps}", "training.report_every=5", "training.epochs=null"]
        changes += ["validation.every=100000", "checkpoints.every=null", f"threads={options.threads}"]
        changes += ["data.validation=null", "training.budget=null"]
        qkv.train(run / "config.yaml", changes, progress=False)
        lines = map(json.loads, (new / "metrics.jsonl").read_text("utf-8").splitlines())
        rates = [line["tokens_per_second"] for line in lines if line["event"] == "train"]
    return statistics.median(rates[2:])


def _decoding(run: Path, options: argparse.Namespace, beam: int, alone: bool, engine: dict[str, str]) -> float:
    import torch

    import qkv
    from qkv.devices import keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does
    try:
        from qkv.config.schema import DecodingConfig

        default = {"engine": DecodingConfig().engine}  # what a run made there says; an older one may say otherwise
    except ModuleNotFoundError:
        default = {}
    translator = qkv.load(run, device="cpu", **default | engine)
    sources = [line for line in options.sources.read_text("utf-8").split("\n") if line.strip()]
    sources = sources[:30] if alone else sources[:1000]
    translator.translate(sources[:20], beam=beam)
    seconds = []
    for _ in range(3):
        began = time.perf_counter()
        for part in [[source] for source in sources] if alone else [sources]:
            translator.translate(part, beam=beam)
        seconds.append(time.perf_counter() - began)
    return len(sources) / min(seconds)


if __name__ == "__main__":
    main()
