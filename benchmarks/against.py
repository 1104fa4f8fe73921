"""Is this checkout as fast as another one? Training and decoding of the same runs, taking turns, as ratios of medians.

    python benchmarks/against.py ../before/src runs/a runs/b --sources test.en

The runs were made by the other checkout: an older format loads here, not the other way round. Each checkout has a
process of its own for a run; the two take many short turns, so that a machine that changes its pace changes it for
both. Training goes through `qkv.train` on the run's own recipe for some steps; decoding through `qkv.load`, with the
engine that a recipe of that checkout has by default, and with torch. The range after a ratio holds nine tenths of what
resampled turns give.
"""

import argparse
import json
import os
import random
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
    parser.add_argument("--turns", type=int, default=12)
    parser.add_argument("--steps", type=int, default=30, help="of training in a turn")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--output", type=Path, help="a JSON file")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        _work(options)
        return
    found: dict[str, dict[str, list[float]]] = {}
    print(f"{'run':22}{'':20}{'there':>10}{'here':>10}{'ratio':>8}  (a second: tokens, sentences)")
    for run in options.runs:
        workers = {tree: _worker(tree, run, options) for tree in (options.other, HERE)}
        for kind in options.kinds.split(","):
            rates: dict[Path, list[float]] = {tree: [] for tree in workers}
            for turn in range(options.turns + 1):  # the first makes both warm
                for tree in list(workers)[:: 1 if turn % 2 else -1]:
                    rate = _asked(workers[tree], kind)
                    rates[tree] += [rate] if turn else []
            there, here = rates.values()
            ratio, low, high = _ratio(there, here)
            found.setdefault(run.name, {})[kind] = [ratio, low, high]
            columns = f"{statistics.median(there):10.1f}{statistics.median(here):10.1f}{ratio:8.3f}"
            print(f"{run.name:22}{kind:20}{columns}  {low:.3f}-{high:.3f}", flush=True)
        for worker in workers.values():
            worker.communicate()
    if options.output:
        options.output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _ratio(there: list[float], here: list[float]) -> tuple[float, float, float]:
    """Of the medians, and the range that holds nine tenths of those of resampled turns."""
    draw, turns = random.Random(0), range(len(there))
    drawn = []
    for _ in range(2000):
        chosen = draw.choices(turns, k=len(there))
        drawn.append(statistics.median(here[i] for i in chosen) / statistics.median(there[i] for i in chosen))
    cuts = statistics.quantiles(drawn, n=20)
    return statistics.median(here) / statistics.median(there), cuts[0], cuts[-1]


def _worker(tree: Path, run: Path, options: argparse.Namespace) -> subprocess.Popen[str]:
    command = [sys.executable, __file__, "there", str(run), "--worker", "--sources", str(options.sources)]
    command += ["--steps", str(options.steps), "--threads", str(options.threads)]
    environment = os.environ | {"PYTHONPATH": str(tree)}
    return subprocess.Popen(command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def _asked(worker: subprocess.Popen[str], kind: str) -> float:
    assert worker.stdin is not None
    assert worker.stdout is not None
    print(kind, file=worker.stdin, flush=True)
    return float(worker.stdout.readline())


def _work(options: argparse.Namespace) -> None:
    """Answer each kind that is asked for with a rate."""
    import torch

    from qkv.devices import keep_freed_memory

    torch.set_num_threads(options.threads)
    keep_freed_memory()  # as the command line does
    [run] = options.runs
    kinds: dict[str, Callable[[], float]] = {"training": lambda: _training(run, options)}
    for line in sys.stdin:
        kind = line.strip()
        if kind not in kinds:
            kinds[kind] = _decoding(run, options, kind)
        print(kinds[kind](), flush=True)


def _training(run: Path, options: argparse.Namespace) -> float:
    import qkv

    with tempfile.TemporaryDirectory() as directory:
        new = Path(directory) / "run"
        changes = [f"run={new}", f"training.steps={options.steps}", "training.report_every=5", "training.epochs=null"]
        changes += ["validation.every=100000", "checkpoints.every=null", f"threads={options.threads}"]
        changes += ["data.validation=null", "training.budget=null"]
        qkv.train(run / "config.yaml", changes, progress=False)
        lines = map(json.loads, (new / "metrics.jsonl").read_text("utf-8").splitlines())
        rates = [line["tokens_per_second"] for line in lines if line["event"] == "train"]
    return statistics.median(rates[1:])


def _decoding(run: Path, options: argparse.Namespace, kind: str) -> Callable[[], float]:
    import qkv

    try:
        from qkv.config.schema import DecodingConfig

        engine = DecodingConfig().engine  # what a run made there says; an older one may say otherwise
    except ModuleNotFoundError:
        engine = "torch"
    translator = qkv.load(run, device="cpu", engine="torch" if kind.endswith("torch") else engine)
    beam, alone = 1 if kind.startswith("greedy") else 5, kind.startswith("one")
    sources = [line for line in options.sources.read_text("utf-8").split("\n") if line.strip()]
    sources = sources[:30] if alone else sources[:200]
    parts = [[source] for source in sources] if alone else [sources]

    def measured() -> float:
        began = time.perf_counter()
        for part in parts:
            translator.translate(part, beam=beam)
        return len(sources) / (time.perf_counter() - began)

    return measured


if __name__ == "__main__":
    main()
